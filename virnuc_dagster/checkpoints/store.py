"""The checkpoint store: the commit protocol, and what a reader may rely on.

Saving runs in this order, so that a reader finds the previous checkpoint or the new one, never a third state:

1. write the bytes to a uniquely named temporary file in the target folder, flush, fsync;
2. read that file back and validate it at every level;
3. rename it to its content-addressed name, fsync the folder;
4. write the commit record the same way and rename it over `<shard>.pt.done`: this rename is the commit;
5. remove the data files of generations that are no longer kept, and only those.

A crash before 4 leaves the previous record, and with it the previous data file, untouched.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from virnuc_dagster.checkpoints.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointMissingError,
    typed_os_errors,
)
from virnuc_dagster.checkpoints.files import (
    TEMPORARY_SUFFIX,
    exclusive,
    make_folder,
    rename,
    temporary_file,
    write_atomic,
)
from virnuc_dagster.checkpoints.format import CheckpointKey, CommitRecord, Payload, content_digests, serialise
from virnuc_dagster.checkpoints.validate import Level, check_schema, check_size, read_payload, shape_of
from virnuc_dagster.checkpoints.versions import CURRENT_VERSION, VersionError, refuse_newer

QUARANTINE = ".quarantine"
FAILED_LIST = "failed_checkpoints.txt"
RECORD_SUFFIX = ".pt.done"


class CheckpointStore(Protocol):
    """What every backend offers. Keys are `CheckpointKey`; payloads are dicts as `format.KINDS` says."""

    def save(
        self, key: CheckpointKey, payload: Payload, provenance: Mapping[str, Any], writer: Mapping[str, str] = ...
    ) -> CommitRecord:
        """Validate and commit; the previous checkpoint stays until the new one is committed."""
        ...

    def load(self, key: CheckpointKey, level: Level = ...) -> Payload:
        """The committed payload, checked against its record."""
        ...

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """The commit record after the quick check (record + size), or None if nothing is committed."""
        ...

    def list(self, stage: str, batch: str | None = None) -> Sequence[CheckpointKey]:
        """Committed keys of a stage, sorted."""
        ...

    def remove(self, key: CheckpointKey) -> None:
        """Forget a checkpoint: record first, then data."""
        ...

    def quarantine(self, key: CheckpointKey, reason: str) -> None:
        """Set a damaged checkpoint aside with its reason; nothing is deleted."""
        ...

    def sweep(self, grace_seconds: float = ...) -> Sequence[str]:
        """Remove leftovers of dead writers older than the grace period; returns what was removed."""
        ...


class LocalStore:
    """A checkpoint store in a local folder (or a network mount with atomic renames).

    Args:
        root: Folder of the store; created on the first save.
        keep_previous: Generations kept beside the current one.
    """

    def __init__(self, root: Path, keep_previous: int = 1) -> None:
        self.root = root
        self.keep_previous = keep_previous

    def _record_path(self, key: CheckpointKey) -> Path:
        return self.root / key.stage / key.batch / f"{key.shard}{RECORD_SUFFIX}"

    def save(
        self,
        key: CheckpointKey,
        payload: Payload,
        provenance: Mapping[str, Any],
        writer: Mapping[str, str] | None = None,
    ) -> CommitRecord:
        """Commit a payload under a key (see the module's docstring for the order of steps).

        Args:
            key: Stage, batch and shard; the stage is the kind.
            payload: Columns of the kind with `ids`; `version`, `status` and `kind` are added.
            provenance: Everything that decides the numbers.
            writer: Who writes it; kept for humans.

        Returns:
            The record as committed.

        Raises:
            CheckpointError: The payload is not valid for its kind; nothing was replaced.
            NoSpaceError, StorageError: The disk refused; nothing was replaced.
        """
        whole = {"version": CURRENT_VERSION, "status": "complete", **payload, "kind": key.stage}
        check_schema(whole, key, None, values=False)
        data = serialise(key.stage, payload)
        digest = hashlib.sha256(data).hexdigest()
        rows, dim, dtype = shape_of(payload)
        record = CommitRecord(
            kind=key.stage, file=f"{key.shard}.{digest[:16]}.pt", bytes=len(data), sha256=digest, rows=rows, dim=dim,
            dtype=dtype, content=content_digests(payload), provenance=dict(provenance), writer=dict(writer or {}),
        )  # fmt: skip
        record.to_json()  # refuse an oversized record before anything is written
        path = self._record_path(key)
        make_folder(path.parent)
        data_path = path.parent / record.file
        with temporary_file(data_path, data) as temporary:
            with typed_os_errors(temporary):
                written = temporary.read_bytes()
            read_payload(written, temporary, record, Level.FULL)
            del written
            with exclusive(path.parent):
                rename(temporary, data_path)
                return self._commit(path, record)

    def _commit(self, path: Path, record: CommitRecord) -> CommitRecord:
        try:
            replaced = self._read_record(path)
        except CheckpointError:
            replaced = None  # unreadable: its data file is nobody's now, and the sweep finds it
        history = [replaced.file, *replaced.previous] if replaced else []
        history = [name for name in dict.fromkeys(history) if name != record.file]
        record = dataclasses.replace(record, previous=tuple(history[: self.keep_previous]))
        write_atomic(path, record.to_json())
        for name in history[self.keep_previous :]:
            with typed_os_errors(path.parent / name):
                (path.parent / name).unlink(missing_ok=True)
        return record

    def _read_record(self, path: Path) -> CommitRecord | None:
        try:
            with typed_os_errors(path):
                text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(text)
            refuse_newer(values.get("version") if isinstance(values, dict) else None)
            return CommitRecord.from_json(text)
        except VersionError as error:
            raise CheckpointIncompatibleError(path, f"incompatible: {error}", hint="") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointDamagedError(path, f"corrupted: commit record: {error}") from error

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """The commit record after the quick check, or None if nothing is committed.

        Costs one small read and one stat; no tensor is loaded.

        Raises:
            CheckpointError: The record is unreadable, or its data file is missing or has another size.
        """
        path = self._record_path(key)
        for attempt in (1, 2):
            record = self._read_record(path)
            if record is None:
                return None
            data_path = path.parent / record.file
            try:
                size = data_path.stat().st_size
            except FileNotFoundError as error:
                # A writer may have committed twice since the record was read: look once more.
                if attempt == 2:
                    raise CheckpointDamagedError(data_path, "corrupted: data file is missing") from error
                continue
            check_size(size, data_path, record)
            return record
        return None

    def load(self, key: CheckpointKey, level: Level = Level.LOAD) -> Payload:
        """The committed payload; what was verified is what is returned (one read, in memory).

        Raises:
            CheckpointMissingError: Nothing is committed.
            CheckpointError: Damaged or incompatible; the message names the file.
        """
        for attempt in (1, 2):
            record = self.record(key)
            if record is None:
                raise CheckpointMissingError(self._record_path(key))
            path = self._record_path(key).parent / record.file
            try:
                with typed_os_errors(path):
                    data = path.read_bytes()
            except FileNotFoundError as error:
                if attempt == 2:
                    raise CheckpointDamagedError(path, "corrupted: data file is missing") from error
                continue
            return read_payload(data, path, record, level)
        raise AssertionError("unreachable")

    def list(self, stage: str, batch: str | None = None) -> Sequence[CheckpointKey]:
        """Committed keys of a stage (of one batch), sorted by batch and shard."""
        folder = self.root / stage
        records = folder.glob(f"{batch or '*'}/*{RECORD_SUFFIX}")
        return sorted(
            (CheckpointKey(stage, path.parent.name, path.name.removesuffix(RECORD_SUFFIX)) for path in records),
            key=str,
        )

    def remove(self, key: CheckpointKey) -> None:
        """Forget a checkpoint with its kept generations. The record goes first: no record ever points at nothing."""
        path = self._record_path(key)
        if not path.parent.is_dir():
            return
        with exclusive(path.parent):
            try:
                record = self._read_record(path)
            except CheckpointError:
                record = None
            with typed_os_errors(path):
                path.unlink(missing_ok=True)
                for name in (record.file, *record.previous) if record else ():
                    (path.parent / name).unlink(missing_ok=True)

    def quarantine(self, key: CheckpointKey, reason: str) -> None:
        """Move a damaged checkpoint's record and data file to `.quarantine/` and log the reason; delete nothing."""
        path = self._record_path(key)
        place = self.root / QUARANTINE
        make_folder(place)
        tag = uuid.uuid4().hex[:8]
        with exclusive(path.parent):
            names = [path.name]
            with contextlib.suppress(CheckpointError):
                record = self._read_record(path)
                names += [record.file] if record else []
            for name in names:  # the record first: from here on the shard counts as missing
                with contextlib.suppress(FileNotFoundError):
                    rename(path.parent / name, place / f"{key.stage}.{key.batch}.{tag}.{name}"[-250:])
        self._log_failed(path, reason)

    def _log_failed(self, path: Path, reason: str) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = "|".join(quote(text, safe=" /,:;()=+'\"!?&@#<>[]{}~_-.") for text in (str(path), reason, when)) + "\n"
        log = self.root / FAILED_LIST
        with typed_os_errors(log), log.open("a", encoding="utf-8") as file:
            file.write(line)

    def sweep(self, grace_seconds: float = 3600.0) -> Sequence[str]:
        """Remove temporary files and unreferenced data files that are older than the grace period.

        The grace period protects a writer that is about to commit.

        Returns:
            Paths removed, relative to the root, sorted.
        """
        oldest = time.time() - grace_seconds
        removed = []
        for path in sorted(self._leftovers()):
            with contextlib.suppress(FileNotFoundError), typed_os_errors(path):
                if path.stat().st_mtime <= oldest:
                    path.unlink()
                    removed.append(str(path.relative_to(self.root)))
        return removed

    def _leftovers(self) -> Iterator[Path]:
        for folder in self.root.glob("*/*/"):
            if folder.parent.name == QUARANTINE:
                continue
            referenced: set[str] = set()
            unreadable = False
            for record_path in folder.glob(f"*{RECORD_SUFFIX}"):
                try:
                    record = self._read_record(record_path)
                except CheckpointError:
                    unreadable = True  # its data file may be among the others: keep them all
                    continue
                if record:
                    referenced |= {record.file, *record.previous}
            yield from folder.glob(f".*{TEMPORARY_SUFFIX}")
            if not unreadable:
                yield from (path for path in folder.glob("*.pt") if path.name not in referenced)
