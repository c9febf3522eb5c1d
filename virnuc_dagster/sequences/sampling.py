"""How many sequences, windows and frames a file holds: counted if it is small, else estimated from a sample of it.

A large plain file is read in pieces that lie evenly in it, so that a gigabyte is answered as fast as its sample. A
compressed file cannot be entered in the middle: its beginning stands for the rest, and so does the ratio of that part.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.reader import SequenceRecord, read_sequences
from virnuc_dagster.sequences.streams import BLOCK_SIZE, is_compressed, opened, text_blocks
from virnuc_dagster.sequences.translation import frame_id, open_frames

EXACT_BYTES = 32_000_000
PIECES, PIECE_BYTES = 64, 500_000
#: Times that pieces get larger, and fewer, if the records of a FASTQ file are longer than they are.
_COARSER = 8
_SCAN_BASES = 1_000_000
_CONTINUED = b">continued\n"
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
        """Everything times a factor."""
        return Counts(*(round(getattr(self, f.name) * factor) for f in fields(Counts)))


@dataclass(frozen=True)
class Estimate:
    """What is known of a file.

    Attributes:
        counts: Of the whole file.
        exact: Whether all of it was read; then it also is a valid input.
        read_bytes: Bytes of text that were looked at.
        text_bytes: Bytes of text of the whole file; estimated for a compressed one that was not read to its end.
        error: Two standard errors of `frames` as a share of it, from how much the pieces differ; 0 if exact. It cannot
            speak for a part of a compressed file that no piece is from.
        how: What was read, in words.
        texts: Nucleotide and protein text of some frames, spread over what was read.
    """

    counts: Counts
    exact: bool
    read_bytes: int
    text_bytes: int
    error: float
    how: str
    texts: list[tuple[str, str]] = field(default_factory=list, repr=False)


def estimate_file(
    path: Path,
    window_length: int,
    *,
    exact_bytes: int = EXACT_BYTES,
    pieces: int = PIECES,
    piece_bytes: int = PIECE_BYTES,
    keep_frames: int = 2_000,
) -> Estimate:
    """Count or estimate what a FASTA or FASTQ file comes to.

    Args:
        path: The file, plain or compressed.
        window_length: Bases a window.
        exact_bytes: Files of at most that much text are counted.
        pieces: Pieces of a larger one that are looked at, at least 2.
        piece_bytes: Bytes of each; of a compressed file, the pieces fill twice `exact_bytes`.
        keep_frames: Frames to hand back, about.

    Raises:
        InputError: It is no readable sequence file, as far as it was read.
    """
    if str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        raise InputError(f"{path}: is no plain file", hint="a pipe cannot be sampled: give a file", path=str(path))
    name, keep = str(path), -(-keep_frames // pieces)
    with opened(path, str(path)) as file:
        size = path.stat().st_size
        compressed = is_compressed(file.read(BLOCK_SIZE))
        if not compressed and size <= exact_bytes:
            return _counted(read_sequences(path, name=name), size, window_length, keep_frames)
        if compressed:
            file.seek(0)
            text, length, read = _beginning(text_blocks(file, name=name), 2 * exact_bytes, file)
            if length == len(text):
                records = read_sequences(io.BytesIO(text), name=name)
                return _counted(records, len(text), window_length, keep_frames)
            total = round(size * length / read)
            cut = -(-len(text) // pieces)
            texts = [text[start : start + cut] for start in range(0, len(text), cut)]
            how = f"the first {len(text) / 1e6:.0f} MB of text stand for about {total / 1e6:,.0f} MB"
        else:
            starts = [index * (size - piece_bytes) // (pieces - 1) for index in range(pieces)]
            texts = [_at(file, start, piece_bytes) for start in starts]
            total = round(size * sum(map(len, texts)) / (pieces * piece_bytes))  # line ends may be two bytes on disk
            how = f"{pieces} pieces of {piece_bytes / 1e6:.2g} MB, evenly spread, stand for {size / 1e6:,.0f} MB"
    if _is_fastq(texts[0]) and not any(_whole_records(text, True)[0] for text in texts):
        next(read_sequences(path, name=name))  # its own error, if the records are not of four lines
        if pieces < 2 * _COARSER:
            raise InputError(
                f"{path}: its FASTQ records are too long to be sampled", hint="predict takes them", path=str(path)
            )
        coarser = {"pieces": pieces // _COARSER, "piece_bytes": piece_bytes * _COARSER}
        return estimate_file(path, window_length, exact_bytes=exact_bytes, keep_frames=keep_frames, **coarser)
    return _extrapolated(texts, total, how, window_length, keep, name)


def _is_fastq(text: bytes) -> bool:
    return text.lstrip()[:1] == b"@"


def _at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _beginning(blocks: Iterable[bytes], size: int, file: BinaryIO) -> tuple[bytes, int, int]:
    """Text up to a size; and text that was decompressed and bytes that were read for it, for their ratio."""
    found: list[bytes] = []
    length = read = 0
    for block in blocks:
        if length > size and file.tell() > read:
            break
        found.append(block[: max(0, size - length)])
        length, read = length + len(block), file.tell()  # a few bytes may give many blocks
    return b"".join(found), length, read


def _counted(records: Iterator[SequenceRecord], size: int, window_length: int, keep: int) -> Estimate:
    counts, texts = _count(records, window_length)
    return Estimate(counts, True, size, size, 0.0, "all of it was read", _spread(texts, keep))


def _extrapolated(texts: list[bytes], total: int, how: str, window_length: int, keep: int, name: str) -> Estimate:
    """From pieces to the whole: everything is taken to be proportional to the bytes of text."""
    fastq = _is_fastq(texts[0])
    sizes, counts, kept = [], [], []
    for index, text in enumerate(texts):
        piece, continued = _whole_records(text, fastq) if index or fastq else (text, False)
        if not piece:
            continue
        found, frames = _count(read_sequences(io.BytesIO(piece), name=f"{name} (a piece of it)"), window_length)
        sizes.append(len(piece) - continued * len(_CONTINUED))
        counts.append(found + _ONE_LESS if continued else found)
        kept += _spread(frames, keep)
    seen = sum(sizes)
    share = seen / total
    whole = sum(counts, Counts()).scaled(1 / share)
    error = _two_standard_errors([c.frames for c in counts], sizes) * math.sqrt(max(0.0, 1 - share))
    return Estimate(whole, False, seen, total, error, how, kept)


#: A record that began before the piece is counted where it begins; its letters and windows are counted here.
_ONE_LESS = Counts(sequences=-1, header_letters=2 - len(_CONTINUED), id_letters=2 - len(_CONTINUED))


def _whole_records(text: bytes, fastq: bool) -> tuple[bytes, bool]:
    """What of a piece can be read by itself, and whether it begins within a record.

    A FASTA record that goes over the edge is taken for two, which makes at most one window too many of it. FASTQ
    records that do are left out.
    """
    if not fastq:
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
    """Counts of some records, and the texts of about a hundredth to all of their frames."""
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
    """Records by about a million bases."""
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
    """At most that many of them, evenly chosen."""
    step = max(1, -(-len(texts) // number))
    return list(texts[::step])


def _two_standard_errors(values: Sequence[int], sizes: Sequence[int]) -> float:
    """Of the ratio sum(values) / sum(sizes), relative to it (the usual estimator of a ratio from clusters)."""
    if len(values) < 2 or not sum(values):
        return 0.0
    ratio = sum(values) / sum(sizes)
    spread = sum((value - ratio * size) ** 2 for value, size in zip(values, sizes, strict=True)) / (len(values) - 1)
    return 2 * math.sqrt(spread / len(values)) / (sum(values) / len(values))
