"""What the DNA of a window looks like, as numbers, whether or not a reading frame is open: the fallback's features.

Two parts, both equal for the two strands of a window:

* canonical k-mers: each k-mer and its reverse complement are one feature; counts are divided by their Euclidean norm;
* codons of the longest stop-free stretch: a window that cuts a gene's end has no open frame, but still a long stretch
  of codons, and virus and host choose codons differently. Counts in twentieths, so that they also tell its length.

Letters other than A, C, G, T count in neither. A codon with one does not end a stretch, for it may be no stop: else a
single N in a gene would make it look like no gene. Plain numpy, tens of megabases a second.

Axes: N windows, F canonical k-mers in the order of their codes (2,080 for k = 6), 64 codons in the order of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from Bio.Data.CodonTable import unambiguous_dna_by_id
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CODONS = tuple("".join(bases) for bases in product("ACGT", repeat=3))
BLOCK = 32
"""Windows worked on at once: the table of their features, 0.5 MB for k = 6, stays in the processor's cache."""

_UNKNOWN = 4
_CODE = bytes(b"ACGT".find(letter) if letter in b"ACGT" else _UNKNOWN for letter in bytes(range(256)).upper())
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_CODON_UNIT = 20


def feature_count(kmer: int) -> int:
    """Return the width of `features`."""
    return kmer_count(kmer) + len(CODONS)


def features(windows: Sequence[bytes | str], kmer: int) -> Floats:
    """Compute both parts, side by side.

    Args:
        windows: N texts, a few hundred at once; upper and lower case count alike.
        kmer: Letters of a k-mer.

    Returns:
        (N, F + 64); a window without any k-mer of A, C, G and T has a row of zeros in the first part.
    """
    kmers = kmer_count(kmer)
    out = np.empty((len(windows), kmers + len(CODONS)))
    counts = out[:, :kmers]
    counts[:] = kmer_counts(windows, kmer)
    norm = np.sqrt(np.einsum("nf,nf->n", counts, counts))  # of whole numbers: exact in any order
    counts /= np.where(norm > 0, norm, 1)[:, None]
    out[:, kmers:] = codon_counts(windows) / _CODON_UNIT
    return out


def blocks(windows: Sequence[bytes | str]) -> Iterator[tuple[slice, Sequence[bytes | str]]]:
    """Cut many windows into blocks of `BLOCK`, with the rows of each."""
    for first in range(0, len(windows), BLOCK):
        rows = slice(first, min(first + BLOCK, len(windows)))
        yield rows, windows[rows]


@cache
def kmer_feature(kmer: int) -> Ints:
    """Tabulate the feature of each base-5 k-mer code (A 0, C 1, G 2, T 3, any other letter 4), (5 ** kmer,).

    k-mers with another letter have the number one past the last feature.
    """
    codes = np.arange(5**kmer)
    digits = np.stack([codes // 5**place % 5 for place in reversed(range(kmer))])  # (kmer, 5 ** kmer)
    reverse = sum((3 - digits[place]) * 5**place for place in range(kmer))
    known = (digits < _UNKNOWN).all(axis=0)
    canonical = np.where(known, np.minimum(codes, np.where(known, reverse, 0)), -1)
    kept = np.unique(canonical[known])
    return np.where(known, np.searchsorted(kept, canonical), len(kept))


def kmer_count(kmer: int) -> int:
    """Number of canonical k-mers."""
    return int(kmer_feature(kmer).max())


def kmer_counts(windows: Sequence[bytes | str], kmer: int) -> Ints:
    """Count the canonical k-mers of each window.

    Args:
        windows: N texts.
        kmer: Letters of a k-mer.

    Returns:
        (N, F).
    """
    columns = kmer_count(kmer) + 1
    bases, lengths = _joined(windows, kmer)
    codes = _codes(bases, kmer)
    rows = np.repeat(np.arange(len(windows)) * columns, lengths)
    counts = np.bincount(rows + kmer_feature(kmer)[codes[: len(rows)]], minlength=len(windows) * columns)
    return counts.reshape(len(windows), columns)[:, :-1]


def codon_counts(windows: Sequence[bytes | str]) -> Ints:
    """Count the codons of the longest stretch without a stop codon, over the six reading frames of each window.

    The longest has the most known codons. If several are equally long, the codons of all of them are counted.

    Args:
        windows: N texts.

    Returns:
        (N, 64), in the order of `CODONS`.
    """
    bases, lengths = _joined(windows, 3)
    codes = _codes(bases, 3)
    window_of = np.repeat(np.arange(len(windows)), lengths)
    leaves = None if np.count_nonzero(bases == _UNKNOWN) == 3 * (len(windows) + 1) else _leaving(lengths, len(codes))
    found = [_stretches(codes, leaves, reverse) for reverse in (False, True)]
    start, size, known = (np.concatenate(column) for column in zip(*found, strict=True))
    of_strand = np.repeat([0, 1], [len(found[0][0]), len(found[1][0])])
    window = window_of[start]
    longest = np.zeros(len(windows), dtype=np.int64)
    np.maximum.at(longest, window, known)
    kept = known == longest[window]
    start, size, window, of_strand = start[kept], size[kept], window[kept], of_strand[kept]
    begin = np.cumsum(size) - size
    place = np.repeat(start - 3 * begin, size) + 3 * np.arange(size.sum())
    codon = _codon_tables()[1][np.repeat(of_strand, size), codes[place]]
    counts = np.bincount(np.repeat(window, size) * 65 + codon, minlength=65 * len(windows))
    return counts.reshape(len(windows), 65)[:, :64]


def _joined(windows: Sequence[bytes | str], kmer: int) -> tuple[NDArray[np.uint8], Ints]:
    """Join the codes of all windows, unknown letters between them; return also each one's length with those.

    No k-mer reaches from one window into the next.
    """
    texts = [window.encode() if isinstance(window, str) else window for window in windows]
    gap = b"N" * kmer
    joined = b"".join(text + gap for text in texts) + gap
    lengths = np.array([len(text) + kmer for text in texts], dtype=np.int64)
    return np.frombuffer(joined.translate(_CODE), dtype=np.uint8), lengths


def _codes(bases: NDArray[np.uint8], kmer: int) -> NDArray[Any]:
    """Compute the base-5 code of each k-mer from two halves, in the smallest type that holds it."""
    if kmer == 1:
        return bases
    low = kmer // 2
    left, right = _codes(bases[: len(bases) - low], kmer - low), _codes(bases[kmer - low :], low)
    code = left.astype(np.min_scalar_type(5**kmer))
    code *= 5**low
    code += right
    return code


def _leaving(lengths: Ints, count: int) -> NDArray[np.bool_]:
    """Tell whether the codon at each of `count` letters leaves its window, by the lengths that `_joined` gives."""
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())
    return np.append(left < 6, np.ones(count - len(left), dtype=bool))


def _stretches(codes: NDArray[Any], leaves: NDArray[np.bool_] | None, reverse: bool) -> tuple[Ints, Ints, Ints]:
    """Find every stretch between stops of one strand's frames that holds a known codon.

    Args:
        codes: Code of the codon at each letter.
        leaves: Whether the codon at each letter reaches beyond its window; None if only those are unknown.
        reverse: Which strand.

    Returns:
        Place of the leftmost codon, number of codons, number of known codons.
    """
    is_stop, codon_of = (table[int(reverse)] for table in _codon_tables())
    is_unknown = codon_of == len(CODONS)
    ends = (is_stop | is_unknown)[codes] if leaves is None else is_stop[codes] | leaves
    unknown = None if leaves is None else is_unknown[codes] & ~leaves
    found = []
    for phase in range(3):
        stops = np.concatenate(([-1], np.flatnonzero(ends[phase::3])))
        size = np.diff(stops) - 1
        known = size
        if unknown is not None:
            known = size - np.diff(np.searchsorted(np.flatnonzero(unknown[phase::3]), stops))
        held = known > 0
        found.append((3 * (stops[:-1][held] + 1) + phase, size[held], known[held]))
    start, size, known = (np.concatenate(column) for column in zip(*found, strict=True))
    return start, size, known


@cache
def _codon_tables() -> tuple[NDArray[np.bool_], Ints]:
    """Tabulate by strand and codon code: is it a stop, (2, 125); number of its codon, 64 if unknown, (2, 125)."""
    stops = unambiguous_dna_by_id[1].stop_codons
    ends, codon_of = np.zeros((2, 125), dtype=np.bool_), np.full((2, 125), len(CODONS), dtype=np.int64)
    for codon in CODONS:
        code = int(_codes(np.frombuffer(codon.encode().translate(_CODE), dtype=np.uint8), 3)[0])
        for strand, read in enumerate((codon, codon.translate(_COMPLEMENT)[::-1])):
            ends[strand, code] = read in stops
            codon_of[strand, code] = CODONS.index(read)
    return ends, codon_of
