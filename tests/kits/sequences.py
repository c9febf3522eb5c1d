"""Inputs that several tests of reading make."""

import zlib

from virnuc_dagster.sequences.streams import BGZF_END


def bgzf(text: bytes) -> bytes:
    """As bgzip writes it: gzip members of at most 64 kB, each with its size in a BC sub-field, and an empty one."""
    blocks = []
    for start in range(0, len(text), 60_000):
        member = zlib.compressobj(1, wbits=-15)
        part = text[start : start + 60_000]
        packed = member.compress(part) + member.flush()
        blocks += [BGZF_END[:16], (len(packed) + 25).to_bytes(2, "little"), packed]
        blocks += [zlib.crc32(part).to_bytes(4, "little"), len(part).to_bytes(4, "little")]
    return b"".join(blocks) + BGZF_END


def with_another_subfield(content: bytes) -> bytes:
    """The same BGZF blocks with a sub-field of another program before BGZF's own."""
    more, found = b"XX\x03\x00abc", b""
    while content:
        length = int.from_bytes(content[16:18], "little") + 1
        block, content = content[:length], content[length:]
        extra = more + block[12:16] + (length - 1 + len(more)).to_bytes(2, "little")
        found += block[:10] + len(extra).to_bytes(2, "little") + extra + block[18:]
    return found
