"""What tells one input file from another: its path as given, its size and its digest, measured while it is read.

A pipe can be read only once, and a large file should be, so the bytes are counted on their way to the parser.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from virnuc_dagster.sequences.streams import opened

_CHUNK = 1 << 20
#: Of a file that was refused, at most this much is read on for its digest.
_REST_MAX = 1 << 28


@dataclass(frozen=True)
class InputFacts:
    """An input of a call.

    Attributes:
        path: As the user gave it; `-` is standard input.
        bytes: Size of the file; None if it could not be opened, or is a pipe that was not read to its end.
        sha256: Digest of the file's own bytes (compressed, if they are); None if they were not all read.
    """

    path: str
    bytes: int | None = None
    sha256: str | None = None


class Measured(io.RawIOBase):
    """A binary stream that counts and digests what is read from another one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest, self._size = stream, hashlib.sha256(), 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the buffer's size; 0 at the end."""
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self._digest.update(piece)
        self._size += len(piece)
        return len(piece)

    def facts(self, path: str) -> InputFacts:
        """Tell what was read, once the parser has come to the end."""
        while self.read(_CHUNK):
            pass
        return InputFacts(path, self._size, self._digest.hexdigest())

    def facts_of_refused(self, path: str) -> InputFacts:
        """Tell what can be said of a file that the parser did not read to its end; a pipe may have none."""
        with suppress(OSError, ValueError):
            status = os.fstat(self._stream.fileno())
            if stat.S_ISREG(status.st_mode):
                rest = status.st_size - self._size
                return self.facts(path) if rest <= _REST_MAX else InputFacts(path, status.st_size)
        return InputFacts(path)


@contextmanager
def measured(source: Path | BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Open a file or stream that is measured while it is read; the object is a `Measured`.

    Raises:
        InputError: The file cannot be opened; the message calls it `name`.
    """
    with opened(source, name) as stream:
        yield cast(BinaryIO, Measured(stream))
