import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virnuc_dagster.sequences import translation
from virnuc_dagster.sequences.reader import read_sequences
from virnuc_dagster.sequences.translation import FRAME_NAMES, KNOWN_WORD, frame_id, known_shares, open_frames
from virnuc_dagster.sequences.windows import window_spans

VANILLA = Path(__file__).parents[2].parent / "shared/data/vanilla"
BASES = "TCAG"
AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"  # NCBI table 1, in TCAG order
CODE = dict(zip((a + b + c for a in BASES for b in BASES for c in BASES), AMINO_ACIDS, strict=True))
SWAP = {"A": "T", "T": "A", "C": "G", "G": "C"}

letters = st.sampled_from(["ACGT", "ACGTN", "CG", "ACGTRYSWKMBDHVN", "N", "ATG"])
sequences = st.lists(letters.flatmap(lambda some: st.text(some, max_size=90)), max_size=6)


def plain_frames(sequence: str, window_length: int) -> list[tuple[int, int, bool, str, str]]:
    """method.md §2, word for word: (window, frame, ambiguous, nucleotide, protein)."""
    found = []
    for index, (start, end) in enumerate(window_spans(len(sequence), window_length).tolist()):
        window = sequence[start:end]
        opposite = "".join(SWAP.get(letter, letter) for letter in reversed(window))
        for frame, (strand, f) in enumerate((s, f) for s in (window, opposite) for f in range(3)):
            codons = [strand[i : i + 3] for i in range(f, len(strand) - 2, 3)]
            protein = "".join(CODE.get(codon, "") for codon in codons)
            if protein and "*" not in protein:
                nucleotide = strand[f : f + 1 + 3 * len(protein)]
                found.append((index, frame, len(protein) < len(codons), nucleotide, protein))
    return found


def rows(table):
    columns = (table.window, table.frame, table.ambiguous)
    return list(zip(*(column.tolist() for column in columns), table.nucleotide, table.protein, strict=True))


@given(sequences, st.integers(3, 40))
@example(["ATGNNNCCC"], 500)
@example(["NNNNNNNNN", "", "AC", "ACG"], 500)
def test_frames_follow_the_method(texts, window_length):
    table = open_frames([text.encode() for text in texts], window_length)
    alone = [plain_frames(text, window_length) for text in texts]
    assert rows(table) == [row for found in alone for row in found]
    assert table.sequence.tolist() == [i for i, found in enumerate(alone) for _ in found]
    assert table.windows.tolist() == [len(window_spans(len(text), window_length)) for text in texts]


def test_all_64_codons_on_both_strands():
    codons = [codon.encode() for codon in CODE]
    table = open_frames(codons, 3)
    found = dict(zip(table.nucleotide, table.protein, strict=True))
    assert found == {codon: amino_acid for codon, amino_acid in CODE.items() if amino_acid != "*"}
    assert len(table) == 2 * 61  # each codon is met once forward and once as another's reverse complement


@pytest.mark.parametrize(
    ("sequence", "expected", "why"),
    [
        (b"ATGNNNCCC", [("F1", "ATGNNNC", "MP"), ("R1", "GGGNNNC", "GH")], "slices follow the shortened protein"),
        (
            b"ATGTAA",
            [
                ("F2", "TGTA", "C"),
                ("F3", "GTAA", "V"),
                ("R1", "TTACAT", "LH"),
                ("R2", "TACA", "Y"),
                ("R3", "ACAT", "T"),
            ],
            "a stop rejects F1 even as its last codon; order F1 to R3",
        ),
        (b"AUG", [], "U is unknown here: the reader has made it T"),
        (b"NNNNNN", [], "no codon is known, so the protein is empty"),
        (
            b"GCAC",
            [("F1", "GCAC", "A"), ("F2", "CAC", "H"), ("R1", "GTGC", "V"), ("R2", "TGC", "C")],
            "one base more where one is left; no frame 3 of four bases",
        ),
    ],
)
def test_frames_of_short_windows(sequence, expected, why):
    table = open_frames([sequence], 500)
    found = [(FRAME_NAMES[f], n, p) for f, n, p in zip(table.frame, table.nucleotide, table.protein, strict=True)]
    assert found == expected, why


@pytest.mark.parametrize(
    ("window_length", "nt", "aa"), [(500, [499, 499, 498], [166, 166, 166]), (300, [300, 298, 298], [100, 99, 99])]
)
def test_lengths_of_a_full_window(window_length, nt, aa):
    table = open_frames([b"GC" * (window_length // 2)], window_length)
    assert [len(text) for text in table.nucleotide] == nt * 2
    assert [len(text) for text in table.protein] == aa * 2


def test_no_sequences_give_an_empty_table():
    table = open_frames([], 500)
    assert len(table) == 0
    assert (table.frame.dtype, table.sequence.dtype, table.ambiguous.dtype) == (np.int8, np.int64, np.bool_)


def test_frame_id_counts_windows_from_one():
    assert frame_id("contig|7", 0, 5) == "contig|7_chunk_1R3"


@pytest.mark.skipif(not VANILLA.is_dir(), reason="needs the original program's files in ../shared/data/vanilla")
def test_texts_equal_the_original_byte_for_byte():
    records = list(read_sequences(VANILLA / "test_with_orfs.fa", name="test_with_orfs.fa"))
    table = open_frames([record.sequence for record in records], 500)
    rows_ = zip(table.sequence, table.window, table.frame, strict=True)
    ids = [frame_id(records[sequence].id, window, frame) for sequence, window, frame in rows_]
    windows = "".join(
        f">{record.id}_chunk_{k}\n" + re.sub("(.{1,60})", r"\1\n", record.sequence[start:end].decode())
        for record in records
        for k, (start, end) in enumerate(window_spans(len(record.sequence), 500), start=1)
    )
    nucleotides = "".join(f">{name}\n{text}\n" for name, text in zip(ids, table.nucleotide, strict=True))
    proteins = "".join(f">{name}\n{text}\n" for name, text in zip(ids, table.protein, strict=True))
    assert windows.encode() == (VANILLA / "test_with_orfs_chunked500.fa").read_bytes()
    assert nucleotides.encode() == (VANILLA / "test_with_orfs_identified_nucleotide.fa").read_bytes()
    assert proteins.encode() == (VANILLA / "test_with_orfs_identified_protein.faa").read_bytes()


@given(st.text("ACGTNRY", min_size=3, max_size=90), st.integers(3, 40))
def test_known_codons_and_words_are_those_of_a_plain_loop(text, window_length):
    spans = window_spans(len(text), window_length)

    found = known_shares(text.encode(), spans)

    for (start, end), codons, words in zip(spans.tolist(), found.codons, found.words, strict=True):
        window = text[start:end]
        assert words == pytest.approx(_known([window[i:][:KNOWN_WORD] for i in range(max(1, end - start - 5))]))
        for frame, share in enumerate(codons):
            strand = window if frame < 3 else window[::-1]
            if pieces := [strand[i : i + 3] for i in range(frame % 3, len(strand) - 2, 3)]:
                assert share == pytest.approx(_known(pieces))


def _known(pieces: list[str]) -> float:
    return float(np.mean([set(piece) <= set("ACGT") for piece in pieces]))


def test_a_chromosome_is_counted_piece_by_piece(monkeypatch):
    text, spans = (b"GCTNCCGAA" * 20 + b"ACG" * 60) * 10, window_spans(3_600, 50)
    whole = known_shares(text, spans)
    monkeypatch.setattr(translation, "_KNOWN_WINDOWS", 7)

    pieces = known_shares(text, spans)

    assert pieces.codons.tolist() == whole.codons.tolist()
    assert pieces.words.tolist() == whole.words.tolist()
    assert 0.3 < whole.words.min() < whole.words.max() == 1
