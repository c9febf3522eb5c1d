import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kits.training import CLOSED, genome, records

from virnuc_dagster.embedding.esm2 import tokenize_protein
from virnuc_dagster.training.frames import balanced_weights, frames_of
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.tokens import codon_ids, codon_tokenizer, pair_tokens

TOKENIZER = codon_tokenizer()


@given(st.text("ACGTN", min_size=3, max_size=40))
def test_pairs_of_codons_are_what_the_tokeniser_of_the_bundle_makes(text):
    codons = torch.from_numpy(codon_ids(text[: len(text) // 3 * 3].encode())).long()[None]

    assert pair_tokens(codons)[0].tolist() == TOKENIZER.encode(text).ids


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("AAATTTC", [1, 69 + 63, 2]),  # a pair, the odd base dropped
        ("AAATTTCCC", [1, 69 + 63, 5 + 21, 2]),  # the third codon is alone
        ("AAANTTCCC", [1, 0, 5 + 21, 2]),  # one ambiguous base hides its pair
        ("AANC", [1, 0, 2]),
    ],
)
def test_tokens_by_hand(text, tokens):
    assert TOKENIZER.encode(text).ids == tokens


def test_all_frames_of_a_window_are_taken_on_both_strands_with_ambiguous_letters_and_short_last_windows():
    forward = genome(1, is_virus=False, codons=200).removesuffix(CLOSED * 30)
    texts = [forward[:90] + "NNN" + forward[93:], forward[::-1].translate(str.maketrans("ACGT", "TGCA"))]
    frames = frames_of([Record(str(i), i == 0, "c", str(i), "train", t.encode()) for i, t in enumerate(texts)], 500)

    assert {name[-2] for name in frames.ids} == {"F", "R"}
    assert {name.rsplit("_", 1)[1][0] for name in frames.ids} == {"1", "2"}, "the second window is short"
    assert frames.length.min() < 120 < frames.length.max()
    assert any("N" in text for text in frames.nucleotide)
    for row in range(len(frames)):
        tokens = slice(frames.start[row], frames.start[row] + frames.length[row])
        assert frames.residues[tokens].tolist() == tokenize_protein(frames.protein[row])[1:-1]
        codons = torch.from_numpy(frames.codons[tokens]).long()[None]
        assert pair_tokens(codons)[0].tolist() == TOKENIZER.encode(frames.nucleotide[row]).ids


def test_shifts_and_shorter_windows_give_more_frames():
    made = records()

    sizes = [len(frames_of(made, 500, *more)) for more in ((), ((0, 100),), ((0, 100), (300,)))]

    assert sizes == sorted(set(sizes))


def test_classes_weigh_one_half_and_large_groups_less_than_their_size():
    made = [Record(str(i), i < 20, "c", "big" if i % 20 < 16 else "small", "train", b"") for i in range(30)]
    weight = balanced_weights(made, np.arange(30))

    assert weight[:20].sum() == pytest.approx(0.5)
    big, small = weight[:16].sum(), weight[16:20].sum()
    assert big / small == pytest.approx(2), "16 records and 4 records share by their roots, 4 and 2"
