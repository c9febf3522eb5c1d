"""What a store is kept on: the few steps that differ between a local folder and an object store.

A medium knows files, not checkpoints. What it promises of each step is in its class; `store` puts the steps in order.
"""

import contextlib
import errno
import fnmatch
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from virnuc_dagster.checkpoints.archive import Buffer
from virnuc_dagster.checkpoints.errors import CheckpointDamagedError
from virnuc_dagster.errors import StorageError, typed_os_errors
from virnuc_dagster.files import (
    exclusive,
    fsync_folder,
    make_folder,
    mapped,
    rename,
    temporary_file,
    write_atomic,
)

Write = Callable[[BinaryIO], object]


class Medium(Protocol):
    """Files below one root. Paths are those of pathlib or look like them (universal_pathlib).

    Every refusal of the medium is a `StorageError` that names the path; a missing file is `FileNotFoundError`.
    """

    root: Any
    #: Files worth looking at at the same time: more than one where each look is a request that is waited for.
    AT_ONCE: int

    def read(self, path: Any, limit: int | None = None) -> bytes:
        """The file's bytes, at most `limit` of them."""
        ...

    def facts(self, path: Any) -> tuple[int, float]:
        """Size in bytes and time of the last change, seconds since the epoch."""
        ...

    def glob(self, pattern: str) -> Iterator[Any]:
        """Files (and folders, where there are any) below the root that match, hidden ones too."""
        ...

    def put_data(
        self, folder: Any, stem: str, write: Write, seal: Callable[[Buffer, Path | None], str], size: Callable[[], int]
    ) -> contextlib.AbstractContextManager[None]:
        """Inside the context what `write` wrote lies in `folder`, durable, under the name that `seal` gave it.

        `seal` gets the bytes as they came back from the medium, and the local file that holds them, if there is one; it
        checks them. `size` is asked for the bytes needed, if there is no space. Other writers of the folder are kept
        out until the context ends, where the medium can.
        """
        ...

    def put_whole(self, path: Any, data: bytes) -> None:
        """Create or replace a small file: readers see the old bytes or the new ones, never a mixture."""
        ...

    def retire(self, paths: Sequence[Any]) -> None:
        """Remove data files that no record needs any more, or leave them to the sweep."""
        ...

    def unlink(self, path: Any) -> None:
        """Remove a file; one that is gone already is fine."""
        ...

    def settle(self, folder: Any) -> None:
        """Make removals durable before what depends on them is removed."""
        ...

    def move(self, source: Any, target: Any) -> None:
        """Put a file elsewhere; the source must be there."""
        ...

    def locked(self, folder: Any) -> contextlib.AbstractContextManager[None]:
        """Keep other writers of this folder out, where the medium can."""
        ...

    def append_line(self, path: Any, line: str, limit: int) -> None:
        """Add a line to a log that keeps its newest lines within `limit` bytes."""
        ...

    def free_bytes(self) -> int | None:
        """Space left; None where it is not known."""
        ...


class LocalMedium:
    """A local folder, or a network mount with atomic renames.

    A file appears by a rename after its bytes are synced, and its name is synced after the rename, so it survives a
    power cut as far as the file system keeps what fsync promises. Commits of one folder hold its advisory lock.

    Args:
        root: The folder; created with the first file.
    """

    AT_ONCE = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def _parts(self, path: Path) -> list[Path]:
        """The folders below the root that lead to a path."""
        names = path.relative_to(self.root).parts[:-1]
        return [self.root.joinpath(*names[: depth + 1]) for depth in range(len(names))]

    def _refuse_links(self, path: Path) -> None:
        """No folder below the root may be a symbolic link: it could lead out of the store."""
        for part in self._parts(path):
            with typed_os_errors(path):
                is_link = part.is_symlink()
            if is_link:
                raise StorageError(
                    f"{part}: a symbolic link inside the store is not followed",
                    hint="let the store's root be the link, or mount the other disk there",
                    path=str(part),
                )

    def read(self, path: Path, limit: int | None = None) -> bytes:
        """The file's bytes; a symbolic link is not followed."""
        self._refuse_links(path)
        with typed_os_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not block
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise CheckpointDamagedError(path, "corrupted: not a regular file") from error
                raise
            with open(descriptor, "rb") as file:  # noqa: PTH123 - from a descriptor
                return file.read(-1 if limit is None else limit)

    def facts(self, path: Path) -> tuple[int, float]:
        """Size and time of change."""
        self._refuse_links(path)
        with typed_os_errors(path):
            facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise CheckpointDamagedError(path, "corrupted: not a regular file")
        return facts.st_size, facts.st_mtime

    def glob(self, pattern: str) -> Iterator[Path]:
        """Matching paths; what lies behind a symbolic link is not part of the store.

        A folder that cannot be listed is an error: it must not pass for an empty one.
        """
        yield from _matching(self.root, pattern.split("/"))

    @contextlib.contextmanager
    def put_data(
        self,
        folder: Path,
        stem: str,
        write: Write,
        seal: Callable[[Buffer, Path | None], str],
        size: Callable[[], int],
    ) -> Iterator[None]:
        """Temporary file, fsync, read back and seal, rename, fsync of the folder."""
        self._refuse_links(folder / stem)
        make_folder(folder, self.root)
        with temporary_file(folder / stem, write, size) as temporary:
            with mapped(temporary) as written:
                name = seal(written, temporary)
            with exclusive(folder):
                rename(temporary, folder / name)
                yield

    def put_whole(self, path: Path, data: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the folder."""
        self._refuse_links(path)
        write_atomic(path, data)

    def retire(self, paths: Sequence[Path]) -> None:
        """Remove at once: the folder's lock keeps a writer of equal content out."""
        for path in paths:
            self.unlink(path)

    def settle(self, folder: Path) -> None:
        """Fsync of the folder."""
        with contextlib.suppress(FileNotFoundError):
            fsync_folder(folder)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        self._refuse_links(path)
        with typed_os_errors(path):
            path.unlink(missing_ok=True)

    def move(self, source: Path, target: Path) -> None:
        """Rename, durably."""
        self._refuse_links(source)
        self._refuse_links(target)
        make_folder(target.parent, self.root)
        rename(source, target)
        fsync_folder(source.parent)

    @contextlib.contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Hold the folder's advisory lock; no folder, no lock."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(exclusive(folder))
            yield

    def append_line(self, path: Path, line: str, limit: int) -> None:
        """One write in append mode, so that lines of several writers do not mix; at the limit the older half goes."""
        make_folder(path.parent)
        with typed_os_errors(path), path.open("ab") as file:
            file.write(line.encode() + b"\n")
            full = file.tell() > limit
        if full:
            lines = self.read(path).splitlines(keepends=True)
            write_atomic(path, b"".join(lines[len(lines) // 2 :]))

    def free_bytes(self) -> int | None:
        """Bytes free on the file system that holds the root (or its nearest existing parent)."""
        place = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        with typed_os_errors(place):
            return shutil.disk_usage(place).free


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    try:
        with typed_os_errors(folder), os.scandir(folder) as listing:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    except FileNotFoundError:
        return
    for name, is_folder in sorted(entries):
        if fnmatch.fnmatchcase(name, parts[0]):
            if len(parts) == 1:
                yield folder / name
            elif is_folder:
                yield from _matching(folder / name, parts[1:])
