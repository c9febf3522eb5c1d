"""The ZIP around a data file, checked before anything in it is parsed.

`torch.save` writes a plain archive: uncompressed members in one folder, one after the other, nothing before or behind.
Anything else is refused: compressed members (a bomb), overlapping ones, names twice, TorchScript, or a file that is no
ZIP at all, such as the bare pickles of old torch versions.
"""

import io
import mmap
import re
import struct
import zipfile
import zlib
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | mmap.mmap

#: One row of an older program's file may be one member, so a shard of 10,000 frames has as many.
MEMBERS_MAX = 200_000
_LOCAL_HEADER = struct.Struct("<4s5HIIIHH")
_END = b"PK\x05\x06"
_END_BYTES = 22
_ENTRY_BYTES_MAX = 80  # of torch's entries in the directory
_ENCRYPTED = 0x1
_NAMES = re.compile(
    r"[^/]+/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
)


class ArchiveError(ValueError):
    """The bytes are not an archive as `torch.save` writes it."""


class Member(NamedTuple):
    """Where a member's bytes lie: `data[start : start + size]`, and their CRC-32."""

    name: str
    start: int
    size: int
    crc: int


def members(data: Buffer) -> list[Member]:
    """The members of an archive, after checking its structure. Reads headers only.

    Raises:
        ArchiveError: It is not laid out as `torch.save` does.
    """
    if data[:4] != b"PK\x03\x04" or data[-_END_BYTES:][:4] != _END:
        raise ArchiveError("it does not begin and end like one")
    count, directory_bytes = struct.unpack("<HI", data[-12:-6])
    if count * 46 > len(data) or directory_bytes > MEMBERS_MAX * _ENTRY_BYTES_MAX:
        raise ArchiveError("too many members")
    try:
        with zipfile.ZipFile(data if isinstance(data, mmap.mmap) else io.BytesIO(data)) as archive:  # type: ignore[arg-type]
            found = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, struct.error) as error:
        raise ArchiveError(str(error)) from error
    if not 0 < len(found) <= MEMBERS_MAX:
        raise ArchiveError(f"{len(found):,} members")
    folders = {info.filename.split("/")[0] for info in found}
    if len({info.filename for info in found}) != len(found) or len(folders) != 1:
        raise ArchiveError("names twice, or more than one folder")
    listed = [_member(data, info) for info in sorted(found, key=lambda info: info.header_offset)]
    ends = [member.start + member.size for member in listed]
    begins = sorted(info.header_offset for info in found)
    if begins[0] != 0 or any(end > begin for end, begin in zip(ends, begins[1:], strict=False)):
        raise ArchiveError("members overlap, or something lies before them")
    return listed


def _member(data: Buffer, info: zipfile.ZipInfo) -> Member:
    """Compare a member's entry in the directory with its own header."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ArchiveError(f"{info.filename[:80]} is compressed")
    if info.flag_bits & _ENCRYPTED or not _NAMES.fullmatch(info.filename):
        raise ArchiveError(f"unexpected member {info.filename[:80]!r}")
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise ArchiveError(f"{info.filename} has no header")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    name_at = info.header_offset + _LOCAL_HEADER.size
    if data[name_at : name_at + name_bytes] != info.filename.encode():
        raise ArchiveError(f"{info.filename} has another name in its header")
    start = name_at + name_bytes + extra_bytes
    if start + info.file_size > len(data):
        raise ArchiveError(f"{info.filename} is cut off")
    return Member(info.filename, start, info.file_size, info.CRC)


def check_crcs(data: Buffer, listed: list[Member]) -> None:
    """Compare every member with its CRC-32; nothing is copied.

    Raises:
        ArchiveError: One differs.
    """
    with memoryview(data) as whole:
        for member in listed:
            with whole[member.start : member.start + member.size] as content:
                crc = zlib.crc32(content)
            if crc != member.crc:
                raise ArchiveError(f"CRC of {member.name} differs")
