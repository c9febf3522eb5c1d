"""FASTA and FASTQ: from text to checked records, with errors that name the file, the line and the remedy.

The parser is our own because both fast ones were tried and found unfit: dnaio 1.2 refuses headers outside ASCII,
needletail 0.7 refuses empty sequences, blank lines at the start and old-Mac line ends, and neither tells the line of a
record. Opening and decompressing are in `streams`, the words of errors in `diagnosis`.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.diagnosis import (
    NUCLEOTIDE_LETTERS,
    REPAIR_FASTQ,
    describe_foreign,
    describe_letter,
    describe_line,
)
from virnuc_dagster.sequences.formats import foreign_format
from virnuc_dagster.sequences.streams import text_blocks

_FOREIGN_LETTER = b"\0"
_UPPER = bytes(
    ord("T") if chr(byte) in "uU" else upper if (upper := ord(chr(byte).upper())) in NUCLEOTIDE_LETTERS else 0
    for byte in range(128)
) + bytes(128)
"""Upper case, U as T, and NUL for whatever is no nucleotide: one pass cleans a sequence, one search checks it."""
_UPPER_FASTQ = _UPPER[: ord(".")] + b"N" + _UPPER[ord(".") + 1 :]
"""The same of FASTQ, where a dot is a base that could not be called."""
_PACKED = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".zstd")
_FASTA_SPACE = b" \t\n"
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """Make the row of one input sequence.

    Attributes:
        id: The header up to the first white space.
        description: The whole header line without its `>` or `@`; tabs and all else kept.
        sequence: Upper-case letters out of ACGTRYSWKMBDHVN (U is read as T); may be empty.
    """

    id: str
    description: str
    sequence: bytes


class _Raw(NamedTuple):
    """A record as it stands in the file: where, and what."""

    line: int
    header: bytes
    residues: bytes
    fastq: bool = False


def read_sequences(
    source: Path | BinaryIO, *, name: str, allow_missing_end_mark: bool = False
) -> Iterator[SequenceRecord]:
    """Read the records of a FASTA or FASTQ file, plain or compressed with gzip, bzip2, xz or zstd.

    Format and compression are told by content, not by name. Nothing is opened before the first record is asked for;
    a fault late in the file (a truncated archive, say) raises after the records before it were handed out, so keep
    nothing until the iteration ends.

    Args:
        source: A file, or a binary stream, which need not be seekable and is left open.
        name: What error messages call the input; becomes their field `path`.
        allow_missing_end_mark: Read a BGZF file without its end mark, which is probably truncated.

    Yields:
        The records in file order. At least one; ids are unique.

    Raises:
        InputError: The input cannot be used as it is (fields `path`, and `line` where one can be told).
    """
    seen: dict[str, int] = {}
    lines = array("q")
    blocks = text_blocks(source, name=name, allow_missing_end_mark=allow_missing_end_mark)
    for raw in _parsed(blocks, name):
        description = _text(raw.header)
        record_id = _id(description, raw, name)
        first = seen.setdefault(record_id, len(lines))
        if first < len(lines):
            raise _error(
                name,
                raw.line,
                f"record {len(lines) + 1} has the id {record_id!r} of record {first + 1} (line {lines[first]})",
                "make the ids unique: `seqkit rename FILE > new` appends numbers (mates of a pair: give each its own "
                "id, e.g. /1 and /2, or give the two files apart)",
            )
        lines.append(raw.line)
        yield SequenceRecord(record_id, description, raw.residues)


def _error(name: str, line: int | None, problem: str, hint: str) -> InputError:
    if "FILE" in hint and name.lower().endswith(_PACKED):
        hint += "; FILE is the decompressed file"
    place = name if line is None else f"{name}, line {line}"
    return InputError(f"{place}: {problem}", hint=hint, path=name, line=line)


def _parsed(blocks: Iterator[bytes], name: str) -> Iterator[_Raw]:
    """Tell FASTA from FASTQ by the first character that is not white space, and parse."""
    line = 1
    for block in blocks:
        block = block.removeprefix(_UTF8_BOM) if line == 1 else block
        text = block.lstrip()
        line += block.count(b"\n", 0, len(block) - len(text))
        if text:
            break
    else:
        raise _error(name, None, "holds no sequences", "is it the right file? did the program that wrote it finish?")
    if text[:1] not in b">@" or foreign_format(text):
        problem, hint = describe_foreign(text)
        raise _error(name, line, problem, hint)
    if text[:1] == b">":
        yield from _fasta(chain([b"\n" + text], blocks), line, name)
    else:
        yield from _fastq(chain([text], blocks), line, name)


def _fasta(blocks: Iterator[bytes], line: int, name: str) -> Iterator[_Raw]:
    for text in islice(_split_records(blocks), 1, None):  # the first piece is the nothing before the first record
        header, _, residues = text.partition(b"\n")
        sequence = residues.translate(_UPPER, _FASTA_SPACE)
        if _FOREIGN_LETTER in sequence:
            raise _letter_error(_Raw(line, header, residues), _FASTA_SPACE, name)
        yield _Raw(line, header, sequence)
        line += text.count(b"\n") + 1


def _split_records(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut at each `>` that starts a line; blocks never end between a line end and its `>`."""
    pieces: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n>")
        pieces.append(first)
        for other in others:
            yield b"".join(pieces)
            pieces = [other]
    yield b"".join(pieces)


def _fastq(blocks: Iterator[bytes], line: int, name: str) -> Iterator[_Raw]:
    lines = _lines(blocks)
    for header in lines:
        if not header:  # blank lines between records, or at the end
            line += 1
            continue
        residues, plus, quality = next(lines, b""), next(lines, None), next(lines, b"")
        if header[:1] != b"@":
            raise _error(name, line, *describe_line(header))
        size = 4
        if plus is None or plus[:1] != b"+" or len(quality) != len(residues):
            first = (residues, plus, quality) if plus is not None else (residues,)
            residues, size = _wrapped(header, chain(first, lines), line, name)
        sequence = residues.translate(_UPPER_FASTQ, b"\n")
        if _FOREIGN_LETTER in sequence:
            raise _letter_error(_Raw(line, header[1:], residues, fastq=True), b"", name)
        yield _Raw(line, header[1:], sequence, True)
        line += size


def _wrapped(header: bytes, lines: Iterator[bytes], line: int, name: str) -> tuple[bytes, int]:
    """Read a FASTQ record whose sequence or quality is of more than one line.

    A quality line may begin with `@` or `+` like any other, so the length of the sequence says where it ends. All of
    its lines but the last must be equally long: else a quality that was cut short could swallow the next record.

    Returns:
        The sequence, its lines separated by LF, and the number of lines of the record.

    Raises:
        InputError: It is no FASTQ record.
    """
    shown = _shown(header[1:])
    residues: list[bytes] = []
    for text in lines:
        if text[:1] == b"+":
            break
        if residues and text.translate(_UPPER_FASTQ, b"").find(_FOREIGN_LETTER) >= 0:
            if known := foreign_format(b"\n".join((header, residues[0], text))):
                raise _error(name, line, f"this is {known[0]}, not FASTA or FASTQ", known[1])
            raise _error(name, line + len(residues) + 1, f"expected the + line of record {shown}", REPAIR_FASTQ)
        residues.append(text)
    else:
        raise _error(name, line, f"the FASTQ record {shown} is incomplete: truncated", REPAIR_FASTQ)
    bases, qualities = sum(map(len, residues)), [next(lines, b"")]
    while sum(map(len, qualities)) < bases and len(qualities[-1]) == len(qualities[0]) > 0:
        if (more := next(lines, None)) is None:
            break
        qualities.append(more)
    whole = sum(map(len, qualities)) == bases and all(len(text) == len(qualities[0]) for text in qualities[:-1])
    if not whole or len(qualities[-1]) > len(qualities[0]):
        problem = f"record {shown} has {bases} bases but {len(qualities[0])} quality values in its first line of them"
        raise _error(name, line + len(residues) + 2, problem, REPAIR_FASTQ)
    return b"\n".join(residues), 2 + len(residues) + len(qualities)


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut blocks into lines without their ends; a last line end starts no new line."""
    pieces: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        pieces.append(first)
        if others:
            yield b"".join(pieces)
            yield from others[:-1]
            pieces = [others[-1]]
    if last := b"".join(pieces):
        yield last


def _text(header: bytes) -> str:
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _shown(header: bytes) -> str:
    return repr((_text(header).split(None, 1) or [""])[0])


def _id(description: str, raw: _Raw, name: str) -> str:
    words = description.split(None, 1)
    if not words:
        command = '/^>[[:space:]]*$/ {$0 = ">unnamed_" NR} 1\' FILE > new.fasta'
        if raw.fastq:
            command = 'NR%4 == 1 && /^@[[:space:]]*$/ {$0 = "@unnamed_" NR} 1\' FILE > new.fastq'
        raise _error(name, raw.line, "the header has no id", f"name the record, or all of its kind: `awk '{command}`")
    if not words[0].isprintable():
        problem = f"the id {words[0]!r} holds a character that cannot be printed"
        raise _error(
            name, raw.line, problem, "rename the record; if the file is not text, give the one with the sequences"
        )
    return words[0]


def _letter_error(raw: _Raw, allowed_space: bytes, name: str) -> InputError:
    """Find the first letter that is no nucleotide, by line; runs only when there is one."""
    upper, lines = _UPPER_FASTQ if raw.fastq else _UPPER, raw.residues.split(b"\n")
    for number, text in enumerate(lines, start=raw.line + 1):
        for at, letter in enumerate(text):
            if not upper[letter] and letter not in allowed_space:
                problem, hint = describe_letter(
                    text, at, raw.residues, fastq=raw.fastq, wrapped=raw.fastq and len(lines) > 1
                )
                return _error(name, number, f"record {_shown(raw.header)} holds {problem}", hint)
    raise AssertionError("no foreign letter: the caller found one")
