"""The few file-system steps that a commit is made of. Each names the path when the disk refuses."""

import contextlib
import fcntl
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from virnuc_dagster.errors import typed_os_errors

TEMPORARY_SUFFIX = ".tmp"
#: A temporary file this young may not be held yet.
_UNHELD_SECONDS = 60


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    with typed_os_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


#: Folders that this process made, or has synced in their parents.
_DURABLE: set[Path] = set()


def make_folder(folder: Path, top: Path | None = None) -> None:
    """Create a folder and its parents durably; each new name is synced in its parent.

    Args:
        folder: What to create.
        top: From here down, folders that are there already are synced as well, once a process: whoever made them may
            have been killed before its own sync.
    """
    with typed_os_errors(folder):
        there = folder.is_dir()
    if there and (top is None or folder in _DURABLE or not folder.is_relative_to(top)):
        return
    make_folder(folder.parent, top)
    with typed_os_errors(folder):
        folder.mkdir(exist_ok=True)
    if not there or os.access(folder.parent, os.R_OK):  # the folder above a store may be closed to us
        fsync_folder(folder.parent)
    _DURABLE.add(folder)


@contextlib.contextmanager
def temporary_file(target: Path, write: Callable[[BinaryIO], object], size: Callable[[], int] = int) -> Iterator[Path]:
    """Make a new, synced, uniquely named file beside `target` that holds what `write` puts into it.

    The body renames it into place; whatever ends the body otherwise (an error, Ctrl-C), no temporary file is left.
    A failed fsync is not retried: after it the kernel may have dropped the dirty pages.

    Args:
        target: What it is to become.
        write: Fills the file.
        size: Bytes it needs, asked for if the disk is full.
    """
    path = target.parent / f".{target.name[:80]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        with typed_os_errors(target, size):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with open(descriptor, "wb", closefd=True) as file:  # noqa: PTH123 - from a descriptor
                write(file)
                file.flush()
                os.fsync(descriptor)
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError), typed_os_errors(path):
            path.unlink()


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove temporary files and folders that no living maker holds (`exclusive`); what cannot be removed stays."""
    for path in paths:
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime < _UNHELD_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file's bytes without a copy; the file must not be empty."""
    with typed_os_errors(path), path.open("rb") as file:
        bytes_of_file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with bytes_of_file:
        yield bytes_of_file


def rename(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`, atomically and durably."""
    with typed_os_errors(target):
        source.replace(target)
    fsync_folder(target.parent)


def write_atomic(target: Path, data: bytes) -> None:
    """Create or replace a file: readers see the old bytes or the new ones, also after a power cut."""
    with temporary_file(target, lambda file: file.write(data), lambda: len(data)) as path:
        rename(path, target)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock of a file or folder: one commit at a time, and no sweep of what is still being made.

    The kernel frees it when the process dies. File systems without locks (some network mounts) go on without; there,
    writers of one key must not overlap, and nothing abandoned is removed.
    """
    with typed_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with typed_os_errors(path):
            os.close(descriptor)
