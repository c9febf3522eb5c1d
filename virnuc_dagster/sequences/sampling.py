"""How many sequences, windows and frames a file holds: counted if it is small, else estimated from pieces of it.

The pieces (see `pieces`) lie evenly in the whole file; how much they differ says how far off the estimate may be. Where
they are from a part of the file only, where frames are rare or pieces few, no such statement is made.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.pieces import WHOLE_BYTES, Pieces, compressed_pieces, plain_pieces
from virnuc_dagster.sequences.reader import SequenceRecord, read_sequences
from virnuc_dagster.sequences.streams import BLOCK_SIZE, is_compressed, opened
from virnuc_dagster.sequences.translation import frame_id, open_frames

EXACT_BYTES = 32_000_000
PIECES, PIECE_BYTES = 64, 500_000
#: Times that pieces get larger, and fewer, if the records of a FASTQ file are longer than they are.
_COARSER = 8
#: Pieces with records, and frames in them, below which their spread says little.
_FEWEST_PIECES, _FEWEST_FRAMES = 8, 10
_SCAN_BASES = 1_000_000
_CONTINUED = b">the piece begins within a record\n"
_LETTERS = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn"


@dataclass(frozen=True)
class Counts:
    """What a sequence file comes to.

    Attributes:
        sequences: Records.
        bases: Letters of all sequences.
        header_letters: Letters of all header lines.
        id_letters: Letters of all ids.
        windows: Windows of all sequences.
        frames: Frames without a stop, which are what is embedded.
        nucleotides: Bases of all frames.
        residues: Amino acids of all frames.
        frame_id_letters: Letters of the ids of all frames.
    """

    sequences: int = 0
    bases: int = 0
    header_letters: int = 0
    id_letters: int = 0
    windows: int = 0
    frames: int = 0
    nucleotides: int = 0
    residues: int = 0
    frame_id_letters: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))

    def scaled(self, factor: float) -> "Counts":
        """Multiply everything by a factor."""
        return Counts(*(round(getattr(self, f.name) * factor) for f in fields(Counts)))


@dataclass(frozen=True)
class Estimate:
    """What is known of a file.

    Attributes:
        counts: Of the whole file.
        exact: Whether all of it was read; then it also is a valid input.
        read_bytes: Bytes of text that were looked at.
        text_bytes: Bytes of text of the whole file; estimated for a compressed one that was not read to its end.
        error: Two standard errors of `frames` as a share of it, from how much the pieces differ; 0 if exact; None if
            nothing can be said: see the module.
        how: What was read, in words.
        texts: Nucleotide and protein text of some frames, spread over what was read.
    """

    counts: Counts
    exact: bool
    read_bytes: int
    text_bytes: int
    error: float | None
    how: str
    texts: list[tuple[str, str]] = field(default_factory=list, repr=False)


def _refuse_pipe(path: Path) -> None:
    if str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        raise InputError(f"{path}: is no plain file", hint="a pipe cannot be sampled: give a file", path=str(path))


def estimate_file(
    path: Path,
    window_length: int,
    *,
    allow_missing_end_mark: bool = False,
    exact_bytes: int = EXACT_BYTES,
    whole_bytes: int = WHOLE_BYTES,
    pieces: int = PIECES,
    piece_bytes: int = PIECE_BYTES,
    keep_frames: int = 2_000,
) -> Estimate:
    """Count or estimate what a FASTA or FASTQ file comes to.

    Args:
        path: The file, plain or compressed.
        window_length: Bases a window.
        allow_missing_end_mark: As of `read_sequences`.
        exact_bytes: Files of at most that much text are counted; compressed ones of at most twice as much.
        whole_bytes: Text of a compressed file that is decompressed at most.
        pieces: Pieces of a larger one that are looked at; of a compressed one, up to thrice as many.
        piece_bytes: Bytes of each; of a compressed file, all pieces fill at most twice `exact_bytes`.
        keep_frames: Frames to hand back, about.

    Raises:
        InputError: It is no readable sequence file, as far as it was read.
    """
    _refuse_pipe(path)
    name, size = str(path), path.stat().st_size if path.is_file() else 0

    def records() -> Iterator[SequenceRecord]:
        return read_sequences(path, name=name, allow_missing_end_mark=allow_missing_end_mark)

    with opened(path, name) as file:
        head = file.read(BLOCK_SIZE)
        if is_compressed(head):
            most = 3 * pieces
            found = compressed_pieces(
                file, name, head, size, cell=max(1, 2 * exact_bytes // most), pieces=most, whole_bytes=whole_bytes,
                allow_missing_end_mark=allow_missing_end_mark,
            )  # fmt: skip
            if found.whole:
                text = b"".join(found.texts)
                return _counted(read_sequences(io.BytesIO(text), name=name), len(text), window_length, keep_frames)
        elif size <= exact_bytes:
            return _counted(records(), size, window_length, keep_frames)
        else:
            found = plain_pieces(file, head, size, pieces, piece_bytes)
    fastq = _is_fastq(found.head)
    if not fastq:
        next(read_sequences(io.BytesIO(found.head), name=name))  # what is no sequence file says so here
    elif not any(_whole_records(text, fastq=True)[0] for text in found.texts):
        next(records())  # its own error, if it cannot be read
        if pieces < 2 * _COARSER:
            return _counted(records(), size, window_length, keep_frames)
        return estimate_file(
            path, window_length, allow_missing_end_mark=allow_missing_end_mark, exact_bytes=exact_bytes,
            whole_bytes=whole_bytes, pieces=pieces // _COARSER, piece_bytes=piece_bytes * _COARSER,
            keep_frames=keep_frames,
        )  # fmt: skip
    return _extrapolated(found, fastq, window_length, -(-keep_frames // pieces), name)


def _is_fastq(text: bytes) -> bool:
    return text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"@"


def _counted(records: Iterator[SequenceRecord], size: int, window_length: int, keep: int) -> Estimate:
    counts, texts = _count(records, window_length)
    return Estimate(counts, True, size, size, 0.0, "all of it was read", _spread(texts, keep))


def _extrapolated(found: Pieces, fastq: bool, window_length: int, keep: int, name: str) -> Estimate:
    """Extrapolate from pieces to the whole: everything is taken to be proportional to the bytes of the file."""
    sizes, counts, kept, seen = [], [], [], 0
    for text, weight in zip(found.texts, found.weights, strict=True):
        piece, continued = _whole_records(text, fastq=fastq)
        if not piece:
            continue
        count, frames = _count(read_sequences(io.BytesIO(piece), name=f"{name} (a piece of it)"), window_length)
        length = len(piece) - continued * len(_CONTINUED)
        seen += length
        sizes.append(length * weight)
        counts.append(count + _ONE_LESS if continued else count)
        kept += _spread(frames, keep)
    share = sum(sizes) / found.total
    whole = sum(counts, Counts()).scaled(1 / share)
    whole = replace(whole, sequences=max(1, whole.sequences))
    error = _two_standard_errors([c.frames for c in counts], sizes) if found.over_all else None
    if error is not None:
        error *= math.sqrt(max(0.0, 1 - share))
    return Estimate(whole, False, seen, found.text_bytes, error, found.how, kept)


#: A record that began before the piece is counted where it begins; its letters and windows are counted here.
_ONE_LESS = Counts(sequences=-1, header_letters=2 - len(_CONTINUED), id_letters=-len(_CONTINUED.split()[0]) + 1)


def _whole_records(text: bytes, *, fastq: bool) -> tuple[bytes, bool]:
    """Cut out what of a piece can be read by itself; tell whether the piece begins within a record.

    A FASTA record that goes over the edge is taken for two, which makes at most one window too many of it. FASTQ
    records that do are left out, and so is a header that the edge may have cut.
    """
    if not fastq:
        before, _, last = text.rpartition(b"\n")
        text = before if last.startswith(b">") else text
        line, _, rest = text.partition(b"\n")
        inside = not text.startswith(b">")
        if inside and line.strip(_LETTERS):  # the end of a header line
            text = rest
            inside = not text.startswith(b">")
        return (_CONTINUED + text if inside and text else text), inside
    lines = text.split(b"\n")[1 if not text.startswith(b"@") else 0 : -1]
    for first in range(min(4, len(lines))):
        block = lines[first:]
        block = block[: len(block) // 4 * 4]
        headers, pluses = block[::4], block[2::4]
        fit = all(a[:1] == b"@" and b[:1] == b"+" for a, b in zip(headers, pluses, strict=True))
        if block and fit and all(len(a) == len(b) for a, b in zip(block[1::4], block[3::4], strict=True)):
            return b"\n".join(block) + b"\n", False
    return b"", False


def _count(records: Iterator[SequenceRecord], window_length: int) -> tuple[Counts, list[tuple[str, str]]]:
    """Count some records; return also the texts of about a hundredth to all of their frames."""
    total, texts = Counts(), []
    for group in _groups(records):
        table = open_frames([record.sequence for record in group], window_length)
        places = zip(table.sequence.tolist(), table.window.tolist(), table.frame.tolist(), strict=True)
        total += Counts(
            sequences=len(group),
            bases=sum(len(record.sequence) for record in group),
            header_letters=sum(len(record.description) for record in group),
            id_letters=sum(len(record.id) for record in group),
            windows=int(table.windows.sum()),
            frames=len(table),
            nucleotides=sum(map(len, table.nucleotide)),
            residues=sum(map(len, table.protein)),
            frame_id_letters=sum(len(frame_id(group[s].id, window, frame)) for s, window, frame in places),
        )
        texts += _spread(list(zip(table.nucleotide, table.protein, strict=True)), 1_000)
    return total, texts


def _groups(records: Iterator[SequenceRecord]) -> Iterator[list[SequenceRecord]]:
    """Group records by about a million bases."""
    group: list[SequenceRecord] = []
    bases = 0
    for record in records:
        group.append(record)
        bases += len(record.sequence)
        if bases >= _SCAN_BASES:
            yield group
            group, bases = [], 0
    if group:
        yield group


def _spread(texts: Sequence[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    """Choose at most that many of them, evenly."""
    step = max(1, -(-len(texts) // number))
    return list(texts[::step])


def _two_standard_errors(values: Sequence[int], sizes: Sequence[float]) -> float | None:
    """Estimate two errors of sum(values) / sum(sizes), relative to it (usual estimator of a ratio from clusters)."""
    n = len(values)
    if n < _FEWEST_PIECES or sum(values) < _FEWEST_FRAMES:
        return None
    ratio = sum(values) / sum(sizes)
    spread = sum((value - ratio * size) ** 2 for value, size in zip(values, sizes, strict=True)) / (n - 1)
    return (2 + 2.5 / (n - 1)) * math.sqrt(spread / n) / (sum(values) / n)  # few pieces: Student's t, about
