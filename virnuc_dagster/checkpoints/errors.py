"""What can be wrong with a checkpoint or with the place it is kept."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from virnuc_dagster.errors import VirnucError

FORCE_RESUME_HINT = "run again with --force-resume to set it aside and compute it again"


class CheckpointError(VirnucError):
    """A stored checkpoint cannot be used (fields: `path`, `reason`)."""

    exit_code: ClassVar[int] = 3
    error_type: ClassVar[str] = "corrupted"

    def __init__(self, path: object, reason: str, *, hint: str = FORCE_RESUME_HINT) -> None:
        super().__init__(f"{path}: {reason}", hint=hint, path=str(path), reason=reason)
        self.reason = reason


class CheckpointDamagedError(CheckpointError):
    """The bytes on disk are not the bytes that were committed."""


class CheckpointIncompatibleError(CheckpointError):
    """The bytes are whole, but they are not a checkpoint that this version can read."""

    error_type: ClassVar[str] = "incompatible"


class CheckpointMissingError(CheckpointError):
    """Nothing was committed under this key."""

    exit_code: ClassVar[int] = 1
    error_type: ClassVar[str] = "missing"

    def __init__(
        self,
        path: object,
        reason: str = "no checkpoint was committed here",
        *,
        hint: str = "materialize it first: `virnuc predict` computes whatever is missing",
    ) -> None:
        super().__init__(path, reason, hint=hint)


class StorageError(VirnucError):
    """The file system refused an operation (fields: `path`, `errno`)."""


class ServiceAwayError(StorageError):
    """An object store did not answer for as long as was waited (field: `path`). Nothing half-written counts."""


class NoSpaceError(StorageError):
    """The disk or the quota is full (fields: `path`, `errno`, `bytes_needed`)."""

    exit_code: ClassVar[int] = 5


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a used-up quota and a limit of file size answer."""

_HINTS = {
    errno.EACCES: "check the owner and the permissions of this folder",
    errno.EPERM: "check the owner and the permissions of this folder",
    errno.EROFS: "the file system is mounted read-only; choose another --home",
    errno.EIO: "the device reported an input/output error; check the disk before you go on",
}


@contextmanager
def typed_os_errors(path: Path, size: Callable[[], int] = int) -> Iterator[None]:
    """Turn the `OSError`s a disk can answer with into errors that name the path and a remedy.

    Args:
        path: The file or folder being worked on.
        size: Bytes that were to be written, asked for if the disk is full.

    Raises:
        NoSpaceError: On ENOSPC, EDQUOT or a file-size limit (EFBIG).
        StorageError: On any other refusal; a missing file stays `FileNotFoundError`.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            bytes_needed = size()
            raise NoSpaceError(
                f"{path}: no space left{f' for {bytes_needed:,} bytes' if bytes_needed else ''} ({error.strerror})",
                hint="free some space or choose another --home; everything committed so far is kept",
                path=str(path),
                errno=error.errno,
                bytes_needed=bytes_needed,
            ) from error
        raise StorageError(
            f"{path}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0, "the operating system refused this; see the message above"),
            path=str(path),
            errno=error.errno,
        ) from error
