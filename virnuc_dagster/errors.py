"""The errors a user can meet: what happened, what to do about it, and the exit code it maps to.

Every error of the package derives from `VirnucError`. Bugs stay ordinary exceptions. This module imports
nothing from the package, so that every part may use it.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar


class VirnucError(Exception):
    """An error whose message is meant for a user.

    Args:
        message: What happened, naming file, line, key or value.
        hint: What to do about it; printed on a line of its own.
        **fields: Named facts for programs (`error.fields["path"]`).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an error as it is, whatever arguments its class takes: errors travel between processes."""
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


def _restored(kind: type[VirnucError], arguments: tuple[Any, ...], state: dict[str, Any]) -> VirnucError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, each once: a chain of causes may run in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class SettingsError(VirnucError):
    """A setting or an option has a value that cannot work."""

    exit_code = 2


class InputError(VirnucError):
    """The sequence input cannot be used as it is (fields: `path`, `line`)."""


class BundleError(VirnucError):
    """A model bundle is missing, incomplete, or not what its `bundle.json` says."""


class OutOfMemoryError(VirnucError):
    """One frame alone does not fit into the device's memory (field: `id`)."""

    exit_code = 4


class ShardsFailedError(VirnucError):
    """Some shards, or batches, of a run failed; the others are committed (fields: `failed`, key -> reason)."""


class StorageError(VirnucError):
    """The file system refused an operation (fields: `path`, `errno`)."""


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
