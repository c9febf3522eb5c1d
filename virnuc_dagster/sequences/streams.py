"""From a file or a stream to plain text in blocks: opening, decompressing, line ends.

Compression is told by magic bytes, never by the name. One loop serves all four formats, because each of their
decompressors says whether its data came to an end; that is how a truncated file is refused, which zstandard's and
bzip2's own readers let pass in part. A file of many members can also be cut between two of them, where each is
whole; two formats tell even then: BGZF ends with an empty block, and pzstd announces each frame. Whatever a file holds,
it becomes text in pieces of bounded size: a kilobyte that stands for gigabytes of something else than sequences is
refused at the first piece. What the text means belongs to `reader`.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from virnuc_dagster.errors import InputError

BLOCK_SIZE = 1 << 16
_LARGEST_ZSTD_WINDOW = 1 << 31  # what `zstd --long=31` writes; the library's own limit is 128 MiB


#: Text after which a piece ends; and bytes that zstd is given at once, which may stand for 32,768 times as much text.
_PIECE_SIZE, _ZSTD_SLICE = 1 << 24, 1 << 10

_Pieces = Generator[bytes, None, bytes]  # yields text, returns what follows the end of the member


def _at_once(decompressor: Any, block: bytes) -> _Pieces:
    """Decompress gzip, whose text is at most 1,032 times as much."""
    yield decompressor.decompress(block)
    return decompressor.unused_data


def _by_size(decompressor: Any, block: bytes) -> _Pieces:
    """Decompress bzip2 and xz, whose decompressors take a limit."""
    yield decompressor.decompress(block, _PIECE_SIZE)
    while not (decompressor.eof or decompressor.needs_input):
        yield decompressor.decompress(b"", _PIECE_SIZE)
    return decompressor.unused_data


def _by_slices(decompressor: Any, block: bytes) -> _Pieces:
    """Decompress zstd, whose decompressor takes no limit."""
    text, done = bytearray(), 0
    while done < len(block) and not decompressor.eof:
        text += decompressor.decompress(block[done : done + _ZSTD_SLICE])
        done += _ZSTD_SLICE
        if len(text) >= _PIECE_SIZE:
            yield bytes(text)
            text.clear()
    yield bytes(text)
    return decompressor.unused_data + block[done:]


#: A gzip member with an extra field, in which BGZF has a sub-field of two bytes (SAM specification, 4.1); the empty
#: member that ends a file; what pzstd puts before each frame: the frame's size.
_BGZF_START, _BGZF_SUBFIELD = b"\x1f\x8b\x08\x04", b"BC\x02\x00"
_EXTRA_FIELD, _TRAILER_BYTES = 12, 8
#: Deflate's two ways of writing nothing.
_NOTHING = (b"\x03\x00", b"\x01\x00\x00\xff\xff")
#: So much of a member says what it is: other sub-fields may come before BGZF's.
_HEAD_BYTES = 512
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_PZSTD_START = b"\x50\x2a\x4d\x18\x04\x00\x00\x00"


def bgzf_block_size(head: bytes) -> int:
    """Read the size of the BGZF block (bgzip, samtools, many sequencers) that begins so; 0 if it is none."""
    place, end = _EXTRA_FIELD, _end_of_extra_field(head)
    while head.startswith(_BGZF_START) and place + 4 <= end:
        length = int.from_bytes(head[place + 2 : place + 4], "little")
        if head[place : place + 4] == _BGZF_SUBFIELD:
            return int.from_bytes(head[place + 4 : place + 6], "little") + 1
        place += 4 + length
    return 0


def _end_of_extra_field(head: bytes) -> int:
    return _EXTRA_FIELD + int.from_bytes(head[_EXTRA_FIELD - 2 : _EXTRA_FIELD], "little")


def _needs_another(head: bytes) -> bool:
    """Tell whether a member that begins so is never the last of a whole file."""
    if size := bgzf_block_size(head):
        return head[_end_of_extra_field(head) : size - _TRAILER_BYTES] not in _NOTHING
    return head.startswith(_PZSTD_START)


@dataclass(frozen=True, slots=True)
class _Compression:
    name: str
    magic: tuple[bytes, ...]
    decompressor: Callable[[], Any]
    pieces: Callable[[Any, bytes], _Pieces]
    test: str


_COMPRESSIONS = (
    _Compression("gzip", (b"\x1f\x8b",), lambda: zlib.decompressobj(wbits=31), _at_once, "gzip -t"),
    _Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor, _by_size, "bzip2 -t"),
    _Compression("xz", (b"\xfd7zXZ\x00",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), _by_size, "xz -t"),
    _Compression(
        "zstd",
        # The second kind, a skippable frame, is how files of pzstd begin.
        (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + k]) + b"\x2a\x4d\x18" for k in range(16))),
        lambda: zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW).decompressobj(),
        _by_slices,
        "zstd -t",
    ),
)
_DAMAGE = (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError)


def is_compressed(block: bytes) -> bool:
    """Tell whether a file that begins so is compressed."""
    return _compression_of(block) is not None


def _compression_of(block: bytes) -> _Compression | None:
    return next((c for c in _COMPRESSIONS if block.startswith(c.magic)), None)


def text_blocks(source: Path | BinaryIO, *, name: str, allow_missing_end_mark: bool = False) -> Iterator[bytes]:
    """Read a file or stream as plain text.

    Args:
        source: A file, or a binary stream, which need not be seekable and is left open.
        name: What error messages call the input.
        allow_missing_end_mark: Take a file for whole that lacks the end mark of its format, see `_needs_another`.

    Yields:
        Blocks of text whose line ends are all LF. A block but the last does not end with LF, so that a line end is
        never apart from what follows it.

    Raises:
        InputError: The file cannot be opened or read, or its compressed data are damaged or incomplete.
    """
    with opened(source, name) as stream:
        blocks = _decompressed(_raw_blocks(stream, name), name, allow_missing_end_mark)
        yield from _unix_lines(_joined(blocks))


def opened(source: Path | BinaryIO, name: str) -> AbstractContextManager[BinaryIO]:
    """Open a file to be read; a stream is passed on and left open.

    Raises:
        InputError: The file cannot be opened.
    """
    if not isinstance(source, Path):
        return nullcontext(source)
    try:
        return source.open("rb")
    except FileNotFoundError:
        problem, hint = "no such file", "check the path"
    except IsADirectoryError:
        problem, hint = "is a directory", "give the sequence files in it, e.g. with a wildcard: DIR/*.fasta.gz"
    except PermissionError:
        problem, hint = "you are not allowed to read it", "ask its owner, or `chmod u+r` it if it is yours"
    except OSError as error:
        problem, hint = f"cannot be opened ({error.strerror})", "check the path and the disk"
    raise InputError(f"{name}: {problem}", hint=hint, path=name)


def _raw_blocks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Read blocks of a fixed size (the last may be shorter), however little a pipe gives at a time."""
    while True:
        block = b""
        while len(block) < BLOCK_SIZE:
            try:
                piece = stream.read(BLOCK_SIZE - len(block))
            except OSError as error:
                raise InputError(
                    f"{name}: reading failed ({error.strerror or error})",
                    hint="check the disk or the network share, then start again",
                    path=name,
                ) from error
            if not piece:
                break
            block += piece
        if not block:
            return
        yield block


def _decompressed(blocks: Iterator[bytes], name: str, allow_missing_end_mark: bool) -> Iterator[bytes]:
    """Undo the compression the first bytes tell of; plain data pass through."""
    block = next(blocks, b"")
    compression = _compression_of(block)
    if compression is None:
        yield block
        yield from blocks
        return
    while block:
        if len(block) < _HEAD_BYTES:
            block += next(blocks, b"")
        head, decompressor = block[:_HEAD_BYTES], compression.decompressor()
        while block and not decompressor.eof:
            try:
                block = yield from compression.pieces(decompressor, block)
            except _DAMAGE as error:
                raise _damage(f"damaged {compression.name} data ({error})", compression, name) from error
            block = block or next(blocks, b"")
        if not decompressor.eof:
            raise _damage(f"the {compression.name} data end too early: truncated", compression, name)
        block = _without_padding(block, blocks)  # one more member: several compressed files joined, bgzip, pzstd
    if _needs_another(head) and not allow_missing_end_mark:
        problem = (
            f"the {compression.name} data are probably truncated: every block is whole, but the end mark is missing"
        )
        raise InputError(f"{name}: {problem}", hint=_NO_END_MARK, path=name)


_NO_END_MARK = (
    "copy or download it again and compare sizes or checksums; if the program that wrote it leaves the mark out, "
    "add --allow-missing-end-mark (or set VIRNUC_ALLOW_MISSING_END_MARK=true)"
)


def _damage(problem: str, compression: _Compression, name: str) -> InputError:
    hint = f"test it with `{compression.test}`, then copy, download or compress it again"
    return InputError(f"{name}: {problem}", hint=hint, path=name)


def _without_padding(block: bytes, blocks: Iterator[bytes]) -> bytes:
    """Skip the NUL bytes that may follow a member (tapes, xz padding)."""
    while block and not (block := block.lstrip(b"\0")):
        block = next(blocks, b"")
    return block


def _joined(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small blocks, so that the cost of a block and the look at the first one need not care."""
    pieces: list[bytes] = []
    size = 0
    for block in blocks:
        pieces.append(block)
        size += len(block)
        if size >= BLOCK_SIZE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)


def _unix_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Turn CRLF and CR (old Mac) into LF, holding line ends back until what follows them is known."""
    held = b""
    for block in blocks:
        block = held + block
        text = block.rstrip(b"\r\n")
        held = block[len(text) :]
        if text:
            yield _with_lf(text)
    yield _with_lf(held)


def _with_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
