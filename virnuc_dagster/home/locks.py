"""A lock for what only one process may do at a time; another one is told at once who does it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virnuc_dagster.errors import VirnucError


class AlreadyRunningError(VirnucError):
    """The error of a lock that another process holds."""


@contextmanager
def only_one(path: Path, about: str, hint: str) -> Iterator[None]:
    """Hold a lock file that names its holder; the kernel gives it back when the process dies.

    Args:
        path: The file; its folder is there.
        about: What to say of this process to another that wants the lock.
        hint: What that other one's user can do.

    Raises:
        AlreadyRunningError: Another process has it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise AlreadyRunningError(f"already running: {file.read().strip()}", hint=hint) from error
        file.truncate(0)
        file.write(about + "\n")
        file.flush()
        yield
