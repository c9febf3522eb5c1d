"""The features of a window: k-mers and codons against plain loops, strands, blocks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virnuc_dagster.classify.composition import (
    BLOCK,
    CODONS,
    blocks,
    codon_counts,
    feature_count,
    features,
    kmer_count,
    kmer_counts,
    kmer_feature,
)

COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")
TEXT = st.text("ACGTNacgt", max_size=60)
STOPS = {"TAA", "TAG", "TGA"}


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def canonical_counts(text: str, kmer: int) -> Counter[str]:
    kmers = [text[i : i + kmer].upper() for i in range(len(text) - kmer + 1)]
    return Counter(min(word, reverse_complement(word)) for word in kmers if set(word) <= set("ACGT"))


def column(word: str) -> int:
    return int(kmer_feature(len(word))[int("".join(str("ACGT".index(base)) for base in word), 5)])


def longest_stretches(text: str) -> Counter[str]:
    """The codons of the stretches with the most known ones, looking at every codon of every frame."""
    stretches: list[list[str]] = []
    for strand in (text.upper(), reverse_complement(text.upper())):
        for phase in range(3):
            stretch: list[str] = []
            for codon in [strand[i : i + 3] for i in range(phase, len(strand) - 2, 3)]:
                if codon in STOPS:
                    stretches.append(stretch)
                    stretch = []
                elif set(codon) <= set("ACGT"):
                    stretch.append(codon)
            stretches.append(stretch)
    longest = max(map(len, stretches), default=0)
    return Counter(codon for stretch in stretches if len(stretch) == longest for codon in stretch)


@pytest.mark.parametrize(("kmer", "features"), [(1, 2), (2, 10), (3, 32), (4, 136), (6, 2080)])
def test_a_kmer_and_its_reverse_complement_are_one_feature(kmer, features):
    assert kmer_count(kmer) == features


@given(st.lists(TEXT, max_size=5), st.integers(1, 4))
def test_counts_are_those_of_a_plain_loop(texts, kmer):
    counts = kmer_counts(texts, kmer)

    assert counts.shape == (len(texts), kmer_count(kmer))
    for row, text in zip(counts, texts, strict=True):
        expected = canonical_counts(text, kmer)
        assert row.sum() == expected.total()
        assert all(row[column(word)] == count for word, count in expected.items())


@given(st.lists(TEXT, max_size=5))
@example(["ATGTAACCC", "N", "TTATTATTA"])
def test_codons_are_those_of_a_plain_loop(texts):
    found = codon_counts(texts)

    expected = [longest_stretches(text) for text in texts]
    assert found.tolist() == [[counter[codon] for codon in CODONS] for counter in expected]


def test_an_unknown_letter_in_a_gene_costs_its_codon_and_not_the_gene():
    gene = "GCTGCCGAAGCC" * 40

    whole, spoilt = codon_counts([gene, gene[:240] + "N" + gene[241:]])

    assert (whole.sum(), spoilt.sum()) == (320, 318), "two frames of 160 codons are equally long; each lost one"


@given(TEXT)
def test_both_strands_look_the_same(text):
    forward, reverse = features([text, reverse_complement(text)], 3)

    assert forward.tolist() == reverse.tolist()


def test_a_kmer_part_has_length_one_or_nothing():
    rows = features(["ACGTACGGT", "NN"], 2)

    assert rows.shape == (2, feature_count(2))
    assert np.linalg.norm(rows[:, : kmer_count(2)], axis=1) == pytest.approx([1, 0])
    assert rows[:, kmer_count(2) :].sum(axis=1).tolist() == pytest.approx([codon_counts(["ACGTACGGT"]).sum() / 20, 0])


@pytest.mark.parametrize("count", [0, 1, BLOCK, BLOCK + 1])
def test_blocks_cover_everything_once(count):
    windows = [str(i) for i in range(count)]

    cut = list(blocks(windows))

    assert [w for _, block in cut for w in block] == windows
    assert [w for rows, _ in cut for w in windows[rows]] == windows
