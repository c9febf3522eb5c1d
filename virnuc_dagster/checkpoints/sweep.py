"""Cleaning up: files that dead writers left, generations no one needs, old quarantined files.

The grace period protects a writer that is about to commit; where the medium has locks, a folder is swept under them.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from virnuc_dagster.checkpoints.errors import CheckpointError
from virnuc_dagster.checkpoints.format import QUARANTINE, RECORD_SUFFIX, CommitRecord
from virnuc_dagster.checkpoints.medium import Medium
from virnuc_dagster.checkpoints.protocol import Swept
from virnuc_dagster.errors import StorageError
from virnuc_dagster.files import TEMPORARY_SUFFIX


@dataclass(frozen=True)
class Sweep:
    """One pass over a store.

    Attributes:
        medium: Where its files lie.
        read_record: Reads one commit record; raises `CheckpointError` if it is unreadable.
        grace_seconds: Younger files are left alone.
        superseded: Also remove the generations kept beside the current ones.
        quarantine_seconds: Also remove quarantined files older than this; None keeps them all.
        dry_run: Only say what would be removed.
    """

    medium: Medium
    read_record: Callable[[Any], CommitRecord | None]
    grace_seconds: float
    superseded: bool
    quarantine_seconds: float | None
    dry_run: bool

    def run(self) -> list[Swept]:
        """Sweep every folder; returns what was removed (or would be), sorted by path."""
        swept: list[Swept] = []
        for folder in sorted({path.parent for path in self.medium.glob("*/*/*")}):
            if folder.parent.name != QUARANTINE:
                with self.medium.locked(folder):
                    swept += self._folder(folder)
        if self.quarantine_seconds is not None:
            old = self._older(self.medium.glob(f"{QUARANTINE}/*"), self.quarantine_seconds, "quarantined")
            swept += self._remove(old)
        return sorted(swept, key=lambda file: file.path)

    def _folder(self, folder: Any) -> list[Swept]:
        paths = {path.name: path for path in self.medium.glob(f"{folder.parent.name}/{folder.name}/*")}
        records: dict[Any, CommitRecord] = {}
        unreadable = False
        for name, path in paths.items():
            if name.endswith(RECORD_SUFFIX):
                try:
                    record = self.read_record(path)
                except (CheckpointError, StorageError):
                    unreadable = True  # its data file may be among the others: keep them all
                else:
                    records |= {path: record} if record else {}
        swept = self._drop_previous(folder, records) if self.superseded else []
        named = {name for record in records.values() for name in (record.file, *record.previous)}
        leftovers = (
            path
            for name, path in paths.items()
            if (name.startswith(".") and name.endswith(TEMPORARY_SUFFIX))
            or (not unreadable and name.endswith(".pt") and name not in named)
        )
        return swept + self._remove(self._older(leftovers, self.grace_seconds, "leftover"))

    def _drop_previous(self, folder: Any, records: Mapping[Any, CommitRecord]) -> list[Swept]:
        swept: list[Swept] = []
        for path, record in records.items():
            if record.newer:
                continue
            files = list(self._older((folder / name for name in record.previous), self.grace_seconds, "superseded"))
            if files and not self.dry_run:  # first the record, so that it never names a file that is gone
                dropped = {file.path.rsplit("/", 1)[-1] for file in files}
                kept = tuple(name for name in record.previous if name not in dropped)
                self.medium.put_whole(path, dataclasses.replace(record, previous=kept).to_json())
            swept += self._remove(files)
        return swept

    def _older(self, paths: Iterable[Any], seconds: float, why: str) -> Iterator[Swept]:
        oldest = time.time() - seconds
        for path in paths:
            with contextlib.suppress(FileNotFoundError, CheckpointError):  # gone, or no regular file
                size, changed = self.medium.facts(path)
                if changed <= oldest:
                    yield Swept(path.relative_to(self.medium.root).as_posix(), size, why)

    def _remove(self, files: Iterable[Swept]) -> list[Swept]:
        swept = list(files)
        for file in swept if not self.dry_run else ():
            self.medium.unlink(self.medium.root / file.path)
        return swept
