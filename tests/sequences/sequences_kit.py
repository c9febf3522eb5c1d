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
