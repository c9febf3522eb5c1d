"""Pieces of a large file that lie evenly in it, so that few of its bytes can stand for all.

The file is thought of as so many equal parts, and a piece is the middle of its part: pieces that began their parts, or
that lay at both ends of the file, would be off where it changes from one end to the other. A plain file is entered
anywhere. So is BGZF, whose blocks are found by their headers. Any other compressed file is read from its beginning,
which costs its decompression only: what is kept of it thins out as it turns out to be long. What pieces hold belongs to
`sampling`.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from virnuc_dagster.sequences.streams import BGZF_END, bgzf_block_size, text_blocks

#: Text of a compressed file that is decompressed at most: some seconds of gzip or zstd, a minute of bzip2.
WHOLE_BYTES = 2_000_000_000
_LARGEST_BGZF_BLOCK = 1 << 16
#: Text a compressed byte, as sequences usually have it; and at most, where BGZF is entered.
_USUAL_RATIO, _LARGEST_RATIO = 4, 32
_MB = 1e6


@dataclass(frozen=True)
class Pieces:
    """Pieces of a file's text.

    Attributes:
        head: How the text begins.
        texts: What they hold; line ends are LF.
        weights: Of each, bytes of the file for a byte of its text; all in the unit of `total`.
        total: Bytes of the file: of text, or compressed if pieces were found there.
        text_bytes: Bytes of its text, estimated if not all of it was read.
        whole: Whether they are all of the file.
        over_all: Whether they lie evenly in all of it. If not, they say nothing about the rest.
        how: The same in words.
    """

    head: bytes
    texts: list[bytes]
    weights: list[float]
    total: int
    text_bytes: int
    whole: bool
    over_all: bool
    how: str


def plain_pieces(file: BinaryIO, head: bytes, size: int, pieces: int, piece_bytes: int) -> Pieces:
    """Take so many pieces of a file that is larger than them."""
    texts = [_plain(file, start, piece_bytes) for start in _starts(size, pieces, piece_bytes)]
    total = round(size * sum(map(len, texts)) / (pieces * piece_bytes))  # line ends may be two bytes on disk
    how = f"{pieces} pieces of {piece_bytes / _MB:.2g} MB, evenly spread, stand for {size / _MB:,.0f} MB"
    return Pieces(_with_lf(head), texts, [1.0] * pieces, total, total, False, True, how)


def compressed_pieces(
    file: BinaryIO,
    name: str,
    head: bytes,
    size: int,
    *,
    cell: int,
    pieces: int,
    whole_bytes: int,
    allow_missing_end_mark: bool,
) -> Pieces:
    """Take pieces of a compressed file; all of it if they suffice.

    Args:
        file: Open at any place.
        name: What error messages call it.
        head: Its beginning.
        size: Its bytes.
        cell: Bytes of text a piece.
        pieces: How many of BGZF; of others at most that many, and at least a third.
        whole_bytes: Text that is decompressed at most.
        allow_missing_end_mark: As of `read_sequences`.

    Raises:
        InputError: It is damaged or truncated, as far as it was read.
    """
    enterable = size > pieces * cell // 2 and bgzf_block_size(head) and _has_end_mark(file, size)
    if enterable and (found := _bgzf_pieces(file, size, pieces, cell)):
        return found
    file.seek(0)
    stream = _Bounded(text_blocks(file, name=name, allow_missing_end_mark=allow_missing_end_mark), file, whole_bytes)
    texts, stride = _thinned(stream, cell, pieces)
    weights = [1.0] * len(texts)
    if stream.cut_at:
        total = round(size * stream.length / stream.cut_at)
        how = f"the first {stream.length / _MB:,.0f} MB of text stand for about {total / _MB:,.0f} MB, the rest unseen"
        return Pieces(stream.head, texts, weights, total, total, False, False, how)
    how = f"{len(texts)} pieces of {cell / _MB:.2g} MB, evenly spread, stand for {stream.length / _MB:,.0f} MB"
    return Pieces(stream.head, texts, weights, stream.length, stream.length, stride == 1, True, how)


def _starts(size: int, pieces: int, piece_bytes: int) -> list[int]:
    """Compute where the middles of so many equal parts begin."""
    return [max(0, (2 * index + 1) * size // pieces - piece_bytes) // 2 for index in range(pieces)]


def _plain(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return _with_lf(file.read(size))


def _with_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class _Bounded:
    """Blocks of text up to a length; how they begin; how many bytes of the file they took, should there be more."""

    def __init__(self, blocks: Iterator[bytes], file: BinaryIO, most: int) -> None:
        self._blocks, self._file, self._most = blocks, file, most
        self.head, self.length, self.cut_at = b"", 0, 0

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for block in self._blocks:
            if self.length > self._most and self._file.tell() > read:  # a few bytes may give many blocks
                self.cut_at = read
                return
            self.head = self.head or block
            self.length, read = self.length + len(block), self._file.tell()
            yield block


def _thinned(blocks: Iterable[bytes], cell: int, most: int) -> tuple[list[bytes], int]:
    """Keep cells of a text: all, or the middle one of each 3, 9, 27, ..., as many as `most` allows.

    Returns:
        The cells, the last maybe short; and how many cells each stands for.
    """
    kept: list[bytearray] = []
    stride, position = 1, 0
    for block in blocks:
        start = 0
        while start < len(block):
            index, inside = divmod(position, cell)
            end = min(len(block), start + cell - inside)
            if inside == 0 and index % stride == stride // 2 and len(kept) == most:
                kept, stride = kept[1::3], 3 * stride
            if index % stride == stride // 2:
                if inside == 0:
                    kept.append(bytearray())
                kept[-1] += block[start:end]
            position += end - start
            start = end
    return [bytes(text) for text in kept], stride


def _has_end_mark(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - len(BGZF_END)))
    return file.read() == BGZF_END


def _bgzf_pieces(file: BinaryIO, size: int, pieces: int, cell: int) -> Pieces | None:
    """Take so many pieces, equal in what they take of the file; None if it cannot be entered everywhere."""
    packed = cell // _USUAL_RATIO
    found = [_bgzf_piece(file, start, packed) for start in (0, *_starts(size, pieces, packed))]
    first, *others = [(_with_lf(text), used) for text, used in found if used]
    texts, used = [text for text, _ in others], [used for _, used in others]
    if len(others) < pieces or 2 * sum(used) > size:  # so many blocks that reading all of them is as fast
        return None
    seen = sum(map(len, texts))
    text_bytes = round(size * seen / sum(used))
    how = f"{pieces} pieces of {seen / pieces / _MB:.2g} MB, evenly spread, stand for about {text_bytes / _MB:,.0f} MB"
    weights = [bytes_used / max(len(text), 1) for text, bytes_used in others]
    return Pieces(first[0], texts, weights, size, text_bytes, False, True, how)


def _bgzf_piece(file: BinaryIO, start: int, packed: int) -> tuple[bytes, int]:
    """Read the first blocks at or after a place; return text and bytes, about so many, 0 if something is wrong."""
    file.seek(start)
    data = file.read(2 * _LARGEST_BGZF_BLOCK)
    place = next((i for i in _places(data) if _chained(data, i)), len(data))
    data, text, used = data[place:], bytearray(), 0
    while used < packed and len(text) < _LARGEST_RATIO * packed:
        if len(data) < _LARGEST_BGZF_BLOCK:
            data += file.read(4 * _LARGEST_BGZF_BLOCK)
        length = bgzf_block_size(data)
        if not length or data.startswith(BGZF_END):
            break
        try:
            text += zlib.decompress(data[:length], wbits=31)
        except zlib.error:
            return b"", 0  # damaged: reading all of it says so with the right words
        data, used = data[length:], used + length
    return bytes(text), used


def _places(data: bytes) -> Iterator[int]:
    place = data.find(BGZF_END[:4])
    while place >= 0:
        yield place
        place = data.find(BGZF_END[:4], place + 1)


def _chained(data: bytes, place: int) -> bool:
    """Tell whether a block begins here: a header, and where it says that the block ends, the next."""
    length = bgzf_block_size(data[place : place + len(BGZF_END)])
    return length > 0 and data.startswith(BGZF_END[:4], place + length)
