"""Six-frame translation: the stop-free reading frames of the windows of many sequences (method.md §2).

The scan works on all sequences at once. Each base is looked at a fixed number of times, whatever the number of
windows; only frames that survive become text. Reading files and cutting shards do not belong here.

Axes: S sequences, W windows, M surviving frames, N bases of all sequences, K = ceil(N / 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from Bio.Data.CodonTable import unambiguous_dna_by_id

from virnuc_dagster.sequences.windows import Int64Array, spans_of_many

Float64Array = npt.NDArray[np.float64]

FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")

_UNKNOWN = 4  # the code of every letter but A, C, G, T, whose codes are 0 to 3
_CODE = bytes(b"ACGT".find(letter) if letter in b"ACGT" else _UNKNOWN for letter in range(256))
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")  # every other letter stays (method.md §2)


def _amino_acids(*, reverse: bool) -> bytes:
    """Tabulate the amino acid of each codon number (25 a + 5 b + c), `*` a stop, as a 256-byte translation table."""
    table = bytearray(256)
    standard = unambiguous_dna_by_id[1]
    codons = {**standard.forward_table, **dict.fromkeys(standard.stop_codons, "*")}
    for codon, amino_acid in codons.items():
        letters = codon.encode()
        read = letters.translate(_COMPLEMENT)[::-1] if reverse else letters
        a, b, c = read.translate(_CODE)
        table[25 * a + 5 * b + c] = ord(amino_acid)
    return bytes(table)


_FORWARD = _amino_acids(reverse=False)
_REVERSE = _amino_acids(reverse=True)
_FORWARD_STOPS, _REVERSE_STOPS = (
    [number for number, letter in enumerate(table) if letter == ord("*")] for table in (_FORWARD, _REVERSE)
)
_AMBIGUOUS = bytes(number for number in range(125) if _FORWARD[number] == 0)
_KNOWN_WINDOWS = 4_096
"""Windows whose known codons are counted at once: memory does not grow with the length of a chromosome."""
KNOWN_WORD = 6
"""Letters of the words by which a window without an open frame is known."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The surviving frames of some sequences, by sequence, then window, then frame (F1 F2 F3 R1 R2 R3).

    Attributes:
        sequence: int64 (M,), index of the frame's sequence.
        window: int64 (M,), index of the frame's window within its sequence, from 0.
        frame: int8 (M,), index into `FRAME_NAMES`.
        ambiguous: bool (M,), whether a codon with a letter other than A, C, G, T was left out. Nucleotide and protein
            are then out of register after it (method.md §2).
        nucleotide: M texts, 5' to 3' of the frame's strand.
        protein: M texts, none empty, without stops.
        windows: int64 (S,), number of windows of each sequence, scored or not; 0 for one of fewer than 3 bases.
    """

    sequence: Int64Array
    window: Int64Array
    frame: npt.NDArray[np.int8]
    ambiguous: npt.NDArray[np.bool_]
    nucleotide: list[str]
    protein: list[str]
    windows: Int64Array

    def __len__(self) -> int:
        return len(self.protein)


class KnownShares(NamedTuple):
    """The share of each window of a sequence that is known, that is A, C, G or T.

    Attributes:
        codons: float64 (W, 6), share of each frame's codons of which all three letters are known: those that
            contribute to the protein (method.md §2), whatever an ambiguous codon may stand for. In the order of
            `FRAME_NAMES`, also of frames with a stop; of no meaning for a frame without a codon.
        words: float64 (W,), share of its words of `KNOWN_WORD` letters that are all known: what its composition is told
            by. In one block of N this is the share of known bases; ten scattered N in a hundred bases spoil half of it.
            Of a shorter window, whether all of its bases are known.
    """

    codons: Float64Array
    words: Float64Array


def unknown_bases(sequence: bytes) -> int:
    """Number of letters of an upper-case sequence other than A, C, G, T: N and every other ambiguity code.

    >>> unknown_bases(b"ACGTNRYA")
    3
    """
    return len(sequence.translate(None, b"ACGT"))


def known_shares(sequence: bytes, spans: Int64Array) -> KnownShares:
    """Count what is known in every window of a sequence.

    Args:
        sequence: Upper-case letters as the reader yields them.
        spans: Start and end of its windows, (W, 2).
    """
    known = KnownShares(np.ones((len(spans), 6)), np.ones(len(spans)))
    for first in range(0, len(spans), _KNOWN_WINDOWS):
        rows = slice(first, first + _KNOWN_WINDOWS)
        begin, end = spans[rows, 0].min(), spans[rows, 1].max()
        text = sequence[begin:end]
        if unknown_bases(text):
            known.codons[rows], known.words[rows] = _known_in(text, spans[rows] - begin)
    return known


def _known_in(text: bytes, spans: Int64Array) -> KnownShares:
    numbers = _codon_numbers(text)
    keys, sizes = _frame_keys(spans, len(numbers) // 3)
    is_known = np.ones(125, dtype=bool)
    is_known[list(_AMBIGUOUS)] = False
    codons = np.append(0, np.cumsum(is_known[np.frombuffer(numbers, dtype=np.uint8)]))
    letters = np.frombuffer(text.translate(_CODE), dtype=np.uint8)
    bases = np.append(0, np.cumsum(letters != _UNKNOWN))
    starts, ends = spans.T
    size = np.minimum(ends - starts, KNOWN_WORD)
    words = np.append(0, np.cumsum(bases[KNOWN_WORD:] - bases[:-KNOWN_WORD] == KNOWN_WORD))
    first, last = starts, ends - size + 1
    short = (bases[ends] - bases[starts] == size).astype(float)
    whole = (words[np.minimum(last, len(words) - 1)] - words[np.minimum(first, len(words) - 1)]) / (last - first)
    return KnownShares(
        (codons[keys + sizes] - codons[keys]) / np.maximum(sizes, 1), np.where(size < KNOWN_WORD, short, whole)
    )


def frame_id(sequence_id: str, window_index: int, frame: int) -> str:
    """Name a frame as the original does, `{sequence_id}_chunk_{k}{F1..R3}`, k from 1 (method.md §1, §2).

    Args:
        sequence_id: Id of the sequence.
        window_index: Index of the window within the sequence, from 0.
        frame: Index into `FRAME_NAMES`.
    """
    return f"{sequence_id}_chunk_{window_index + 1}{FRAME_NAMES[frame]}"


def open_frames(sequences: Sequence[bytes], window_length: int) -> FrameTable:
    """Find the stop-free frames of every window of every sequence (method.md §1, §2).

    Fastest with about a megabase at a time; the scan takes some 10 bytes of memory a base.

    Args:
        sequences: S sequences, upper-case letters as the reader yields them; empty ones are allowed. A letter other
            than A, C, G, T makes its codons ambiguous.
        window_length: Most bases of a window, at least 3.

    Returns:
        The surviving frames, and the number of windows of every sequence.

    Raises:
        ValueError: `window_length` is below 3.
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    spans, windows = spans_of_many(lengths, window_length)
    spans += np.repeat(np.cumsum(lengths) - lengths, windows)[:, None]  # from here on: positions in the joined text
    joined = b"".join(sequences)
    codons = _codon_numbers(joined)
    keys, sizes = _frame_keys(spans, len(codons) // 3)
    window, frame = np.nonzero(_stop_free(codons, keys, sizes))

    nucleotide, protein, ambiguous, kept = [], [], [], []
    columns = (frame, spans[window, 0], spans[window, 1], keys[window, frame], sizes[window, frame])
    for index, (f, start, end, key, size) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        text = codons[key : key + size].translate(_FORWARD if f < 3 else _REVERSE, _AMBIGUOUS)
        if not text:
            continue
        kept.append(index)
        protein.append((text if f < 3 else text[::-1]).decode("ascii"))
        nucleotide.append(_nucleotides(joined, start, end, f, len(text)))
        ambiguous.append(len(text) < size)

    sequence_of_window = np.repeat(np.arange(len(sequences)), windows)
    window_in_sequence = np.arange(len(spans)) - np.repeat(np.cumsum(windows) - windows, windows)
    rows = window[np.array(kept, dtype=np.int64)]
    return FrameTable(
        sequence=sequence_of_window[rows],
        window=window_in_sequence[rows],
        frame=frame[kept].astype(np.int8),
        ambiguous=np.array(ambiguous, dtype=np.bool_),
        nucleotide=nucleotide,
        protein=protein,
        windows=windows,
    )


def _codon_numbers(joined: bytes) -> bytes:
    """Number the codon that starts at each base, phase by phase, so that a frame's codons are neighbours.

    Returns:
        3 K bytes: position i of the text is found at key `(i % 3) * K + i // 3`.
    """
    per_phase = -(-len(joined) // 3)
    padding = 3 * per_phase + 2 - len(joined)
    codes = np.frombuffer(joined.translate(_CODE) + bytes([_UNKNOWN]) * padding, dtype=np.uint8)
    numbers = 25 * codes[:-2] + 5 * codes[1:-1] + codes[2:]
    return b"".join(numbers[phase::3].tobytes() for phase in range(3))


def _frame_keys(spans: Int64Array, per_phase: int) -> tuple[Int64Array, Int64Array]:
    """Locate each frame of each window among the codon numbers.

    Returns:
        Two arrays (W, 6): key of the frame's leftmost codon (its first on F, its last on R), and its number of codons.
    """
    starts, ends = spans[:, :1], spans[:, 1:]
    offsets = np.arange(3)
    sizes = np.maximum(ends - starts - offsets, 0) // 3
    leftmost = np.concatenate([starts + offsets, ends - offsets - 3 * sizes], axis=1)
    return leftmost % 3 * per_phase + leftmost // 3, np.concatenate([sizes, sizes], axis=1)


def _stop_free(codons: bytes, keys: Int64Array, sizes: Int64Array) -> npt.NDArray[np.bool_]:
    """Tell which frames (W, 6) hold a codon and no stop: the next stop of their strand lies beyond their end."""
    free = sizes > 0
    numbers = np.frombuffer(codons, dtype=np.uint8)
    for columns, (first, second, third) in ((slice(0, 3), _FORWARD_STOPS), (slice(3, 6), _REVERSE_STOPS)):
        is_stop = (numbers == first) | (numbers == second) | (numbers == third)
        stops = np.append(np.flatnonzero(is_stop), len(codons))
        next_stop = stops[np.searchsorted(stops, keys[:, columns].T)].T  # by frame: neighbours look in one place
        free[:, columns] &= next_stop >= keys[:, columns] + sizes[:, columns]
    return free


def _nucleotides(joined: bytes, start: int, end: int, frame: int, length_aa: int) -> str:
    """Cut the text of a frame out of its window: `strand[f : f + 1 + 3 p]` (method.md §2)."""
    offset, length_nt = frame % 3, 3 * length_aa + 1
    if frame < 3:
        return joined[start + offset : min(end, start + offset + length_nt)].decode("latin-1")
    text = joined[max(start, end - offset - length_nt) : end - offset]
    return text[::-1].translate(_COMPLEMENT).decode("latin-1")
