"""Folders for sockets and locks, which bear less than any path: short ones, of plain letters, of this user alone."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from virnuc_dagster.errors import SettingsError
from virnuc_dagster.files import exclusive, remove_abandoned

#: A socket's path may have 107 bytes, of which `/virnuc-up-XXXXXXXX/code.sock` takes 29.
_LENGTH_MAX = 78
#: gRPC takes the path for part of a URL: `#` and `?` end it, `%` is decoded.
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_PREFIX = "virnuc-up-"


def temporary_base() -> Path:
    """Find the folder for temporary files, or `/tmp` in its place where a socket could not lie in it.

    Raises:
        SettingsError: None of them can be used.
    """
    usual = tempfile.gettempdir()
    for base in (usual, "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", "")):  # noqa: S108
        if _PLAIN.fullmatch(base) and len(base) <= _LENGTH_MAX and os.access(base, os.W_OK | os.X_OK):
            return Path(base)
    raise SettingsError(
        f"no folder for sockets: {usual} has a long path or odd letters, and /tmp cannot be written",
        hint=f"set TMPDIR to a folder of your own whose path has at most {_LENGTH_MAX} plain letters",
    )


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can enter, removed at the end; those of killed processes go now."""
    base = temporary_base()
    remove_abandoned(base.glob(f"{_PREFIX}*"))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    try:
        with exclusive(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
