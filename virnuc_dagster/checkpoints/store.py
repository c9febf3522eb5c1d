"""The checkpoint store: the commit protocol, and what a reader may rely on.

Saving runs in this order, so that a reader finds the previous checkpoint or the new one, never a third state:

1. write to a uniquely named temporary file in the target folder, digesting the bytes as they pass; flush, fsync;
2. read that file back and validate it at every level, the digest included;
3. rename it to its content-addressed name, fsync the folder;
4. write the commit record the same way and rename it over `<shard>.pt.done`: this rename is the commit;
5. remove the data files of generations that are no longer kept, and only those.

A crash before 4 leaves the previous record, and with it the previous data file, untouched. The steps on disk are in
`medium`; what an object store does instead is in `object_medium`.
"""

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from virnuc_dagster.checkpoints.archive import Buffer
from virnuc_dagster.checkpoints.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointMissingError,
)
from virnuc_dagster.checkpoints.failed import log_failed
from virnuc_dagster.checkpoints.format import (
    QUARANTINE,
    RECORD_BYTES_MAX,
    RECORD_SUFFIX,
    CheckpointKey,
    CommitRecord,
    Payload,
    Sink,
    content_digests,
    serialise,
)
from virnuc_dagster.checkpoints.medium import LocalMedium, Medium
from virnuc_dagster.checkpoints.protocol import Swept
from virnuc_dagster.checkpoints.sweep import Sweep
from virnuc_dagster.checkpoints.validate import Level, check_digest, check_schema, check_size, read_payload, shape_of
from virnuc_dagster.checkpoints.versions import CURRENT_VERSION, RECORD_VERSION, VersionError, refuse_newer

_T = TypeVar("_T")
_LOOKS_MAX = 100


def open_store(location: str | Path) -> "Store":
    """The store at a location.

    Args:
        location: A folder, or a URL such as `s3://bucket/prefix` or `memory://name` (extra `[s3]` for S3).

    Raises:
        StorageError: No such kind of place, or its package is not installed.
    """
    if "://" not in str(location):
        return LocalStore(Path(location))
    from virnuc_dagster.checkpoints.object_medium import ObjectMedium

    return Store(ObjectMedium(str(location)))


def probe_store(store: "Store") -> None:
    """Write, read and remove a small file, to see that a store can be used.

    Raises:
        StorageError: It cannot.
    """
    path = store.root / f".probe-{uuid.uuid4().hex}"
    store.medium.put_whole(path, b"x")
    store.medium.read(path)
    store.medium.unlink(path)


def _size_of(kind: str, payload: Payload) -> int:
    """Bytes of a payload's data file, found by writing it nowhere."""
    sink = Sink()
    serialise(kind, payload, sink)
    return sink.bytes


def read_record(path: object, text: bytes) -> CommitRecord:
    """Parse the bytes of a commit record.

    Args:
        path: Where they came from, for messages.
        text: The bytes.

    Raises:
        CheckpointIncompatibleError: The record is of a newer major version, or no migration leads from its own.
        CheckpointDamagedError: It is not as it was written.
    """
    if not text:
        raise CheckpointDamagedError(path, "corrupted: commit record is empty")
    try:
        values = json.loads(text[: RECORD_BYTES_MAX + 1])
        refuse_newer(values.get("version") if isinstance(values, dict) else None, RECORD_VERSION)
        return CommitRecord.from_json(text)
    except VersionError as error:
        raise CheckpointIncompatibleError(path, f"incompatible: {error}", hint="") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointDamagedError(path, f"corrupted: commit record: {error}") from error


class Store:
    """The commit protocol over one medium; implements `CheckpointStore`.

    Args:
        medium: Where the files lie.
        keep_previous: Generations kept beside the current one.
    """

    def __init__(self, medium: Medium, keep_previous: int = 1) -> None:
        self.medium = medium
        self.root = medium.root
        self.keep_previous = keep_previous

    def _record_path(self, key: CheckpointKey) -> Any:
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
        return self.save_as(self._record_path(key), key.stage, payload, provenance, writer)

    def save_as(
        self,
        path: Any,
        kind: str,
        payload: Payload,
        provenance: Mapping[str, Any],
        writer: Mapping[str, str] | None = None,
    ) -> CommitRecord:
        """Commit a payload under a record path of one's own, below the root; otherwise like `save`.

        Args:
            path: Where the commit record goes; its name is `<name>.pt.done`.
            kind: What the payload is.
            payload: See `save`.
            provenance: See `save`.
            writer: See `save`.
        """
        whole = {**payload, "version": CURRENT_VERSION, "status": "complete", "kind": kind}
        check_schema(whole, path, None, values=False)
        rows, dim, dtype = shape_of(payload)
        record = CommitRecord(
            kind=kind, file="", bytes=0, sha256="", rows=rows, dim=dim, dtype=dtype, content=content_digests(payload),
            provenance=dict(provenance), writer=dict(writer or {}),
        )  # fmt: skip
        record.to_json()  # refuse an oversized record before anything is written
        stem, sink = path.name.removesuffix(RECORD_SUFFIX), Sink()

        def write(file: BinaryIO) -> None:
            nonlocal sink
            sink = Sink(file)
            serialise(kind, payload, sink)

        def seal(written: Buffer, file: Path | None) -> str:
            """The bytes read back must be those that were digested while they were written, and a whole checkpoint."""
            nonlocal record
            digest = sink.digest.hexdigest()
            name = f"{stem}.{digest[:16]}.pt"
            record = dataclasses.replace(record, file=name, bytes=sink.bytes, sha256=digest)
            read_payload(written, path.parent / name, record, Level.FULL, file=file)
            return name

        with self.medium.put_data(path.parent, f"{stem}.pt", write, seal, lambda: _size_of(kind, payload)):
            return self._commit(path, record)

    def _commit(self, path: Any, record: CommitRecord) -> CommitRecord:
        try:
            replaced = self._read_record(path)
        except CheckpointError:
            replaced = None  # unreadable: its data file is nobody's now, and the sweep finds it
        history = [replaced.file, *replaced.previous] if replaced else []
        history = [name for name in dict.fromkeys(history) if name != record.file]
        record = dataclasses.replace(record, previous=tuple(history[: self.keep_previous]))
        self.medium.put_whole(path, record.to_json())
        self.medium.retire([path.parent / name for name in history[self.keep_previous :]])
        return record

    def _read_record(self, path: Any) -> CommitRecord | None:
        try:
            text = self.medium.read(path, RECORD_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        record = read_record(path, text)
        if record.file != f"{path.name.removesuffix(RECORD_SUFFIX)}.{record.sha256[:16]}.pt":
            raise CheckpointDamagedError(path, f"corrupted: the record of another checkpoint ({record.file})")
        return record

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """The commit record after the quick check, or None if nothing is committed.

        Costs one small read and one stat; no tensor is loaded.

        Raises:
            CheckpointError: The record is unreadable, or its data file is missing or has another size.
        """
        record = self.record_at(self._record_path(key))
        if record is not None and record.kind != key.stage:
            raise CheckpointDamagedError(self._record_path(key), f"corrupted: the record of {record.kind}")
        return record

    def records(self, keys: Sequence[CheckpointKey]) -> Sequence[CommitRecord | CheckpointError | None]:
        """What `record` returns or raises for each key, in their order; several are looked at at once where it pays.

        Raises:
            StorageError: The medium refused.
        """

        def look(key: CheckpointKey) -> CommitRecord | CheckpointError | None:
            try:
                return self.record(key)
            except CheckpointError as error:
                return error

        if self.medium.AT_ONCE == 1 or len(keys) < 2:
            return list(map(look, keys))
        first = look(keys[0])  # alone: a service that is away is not asked by all at once
        with ThreadPoolExecutor(self.medium.AT_ONCE, "look") as pool:
            return [first, *pool.map(look, keys[1:])]

    def record_at(self, path: Any) -> CommitRecord | None:
        """The record at a path of one's own (see `save_as`); otherwise like `record`."""

        def checked(record: CommitRecord, data_path: Any) -> CommitRecord:
            check_size(self.medium.facts(data_path)[0], data_path, record)
            return record

        return self._with_record(path, checked)

    def load(self, key: CheckpointKey, level: Level = Level.LOAD) -> Payload:
        """The committed payload; what was verified is what is returned (one read, in memory).

        Raises:
            CheckpointMissingError: Nothing is committed.
            CheckpointError: Damaged or incompatible; the message names the file.
        """
        return self.load_at(self._record_path(key), level)

    def load_at(self, path: Any, level: Level = Level.LOAD) -> Payload:
        """The payload behind a record at a path of one's own (see `save_as`); otherwise like `load`."""

        def loaded(record: CommitRecord, data_path: Any) -> Payload:
            # Before reading: the size is bounded by the record.
            check_size(self.medium.facts(data_path)[0], data_path, record)
            return read_payload(self.medium.read(data_path, record.bytes + 1), data_path, record, level)

        payload = self._with_record(path, loaded)
        if payload is None:
            raise CheckpointMissingError(path)
        return payload

    def check_bytes(self, key: CheckpointKey) -> None:
        """Compare the committed bytes with their digest. Nothing is parsed, and torch is not needed.

        Raises:
            CheckpointMissingError: Nothing is committed.
            CheckpointError: The record is damaged, or the bytes are not the committed ones.
        """

        def checked(record: CommitRecord, data_path: Any) -> bool:
            check_size(self.medium.facts(data_path)[0], data_path, record)
            check_digest(self.medium.read(data_path, record.bytes + 1), data_path, record)
            return True

        path = self._record_path(key)
        if self._with_record(path, checked) is None:
            raise CheckpointMissingError(path)

    def _with_record(self, path: Any, use: Callable[[CommitRecord, Any], _T]) -> _T | None:
        """Use the data file that the record names; None without a record.

        If it is missing, look at the record again: a writer may have replaced both since. The same record twice with
        no data file is damage.
        """
        seen: CommitRecord | None = None
        for _ in range(_LOOKS_MAX):
            record = self._read_record(path)
            if record is None:
                return None
            data_path = path.parent / record.file
            try:
                return use(record, data_path)
            except FileNotFoundError as error:
                if record == seen:
                    raise CheckpointDamagedError(data_path, "corrupted: data file is missing") from error
                seen = record
        raise CheckpointDamagedError(path, f"corrupted: {_LOOKS_MAX} records in a row without their data file")

    def list(self, stage: str, batch: str | None = None) -> Sequence[CheckpointKey]:
        """Committed keys of a stage (of one batch), sorted by batch and shard."""
        records = self.medium.glob(f"{stage}/{batch or '*'}/*{RECORD_SUFFIX}")
        return sorted(
            (CheckpointKey(stage, path.parent.name, path.name.removesuffix(RECORD_SUFFIX)) for path in records),
            key=str,
        )

    def remove(self, key: CheckpointKey) -> None:
        """Forget a checkpoint with its kept generations. The record goes first: no record ever points at nothing."""
        path = self._record_path(key)
        with self.medium.locked(path.parent):
            try:
                record = self._read_record(path)
            except CheckpointError:
                record = None
            self.medium.unlink(path)
            self.medium.settle(path.parent)
            for name in (record.file, *record.previous) if record else ():
                self.medium.unlink(path.parent / name)

    def quarantine(self, key: CheckpointKey, reason: str) -> None:
        """Move a damaged checkpoint's record and data file to `.quarantine/` and log the reason; delete nothing."""
        path = self._record_path(key)
        tag = uuid.uuid4().hex[:8]
        with self.medium.locked(path.parent):
            names = [path.name]
            with contextlib.suppress(CheckpointError):
                record = self._read_record(path)
                names += [record.file] if record else []
            for name in names:  # the record first: from here on the shard counts as missing
                target = self.root / QUARANTINE / f"{key.stage}.{key.batch}.{tag}.{name}"[-250:]
                with contextlib.suppress(FileNotFoundError):
                    self.medium.move(path.parent / name, target)
        log_failed(self.medium, path, reason)

    def sweep(
        self,
        grace_seconds: float = 3600.0,
        *,
        superseded: bool = False,
        quarantine_seconds: float | None = None,
        dry_run: bool = False,
    ) -> Sequence[Swept]:
        """Remove temporary files and unreferenced data files that are older than the grace period.

        Args:
            grace_seconds: Younger files are left alone: their writer may be about to commit.
            superseded: Also remove the generations kept beside the current ones.
            quarantine_seconds: Also remove quarantined files older than this; None keeps them all.
            dry_run: Only say what would be removed.

        Returns:
            The files removed, sorted by path.
        """
        return Sweep(self.medium, self._read_record, grace_seconds, superseded, quarantine_seconds, dry_run).run()

    def free_bytes(self) -> int | None:
        """Space left for new checkpoints; None where it is not known (object stores)."""
        return self.medium.free_bytes()


class LocalStore(Store):
    """A checkpoint store in a local folder (or a network mount with atomic renames).

    Args:
        root: Folder of the store; created on the first save.
        keep_previous: Generations kept beside the current one.
    """

    def __init__(self, root: Path, keep_previous: int = 1) -> None:
        super().__init__(LocalMedium(root), keep_previous)
