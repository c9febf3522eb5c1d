"""Looking at a whole folder of checkpoints: every file, any mix of kinds and versions, one finding each.

`audit` works on any local folder: a store, a part of one, or a folder of the older programs; `audit_store` on a store
that is kept elsewhere. Nothing is changed.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints.errors import CheckpointDamagedError, CheckpointError, CheckpointIncompatibleError
from virnuc_dagster.checkpoints.format import QUARANTINE, RECORD_BYTES_MAX, RECORD_SUFFIX, CommitRecord
from virnuc_dagster.checkpoints.legacy import read_legacy
from virnuc_dagster.checkpoints.store import Store, read_record
from virnuc_dagster.checkpoints.validate import Level, check_size, read_payload, shape_of
from virnuc_dagster.files import TEMPORARY_SUFFIX

_CONTENT_ADDRESS = re.compile(r"\.([0-9a-f]{16})\.pt$")


@dataclass(frozen=True)
class Finding:
    """What is known of one file.

    Attributes:
        path: The data file; the commit record where the data file is not known.
        status: `ok`, `damaged`, `incompatible`, `superseded` (a kept older generation), `leftover` (no record names it)
            or `missing` (it was stored once; known to those who have other memories than the store, not found here).
        reason: Why, where something is wrong.
        version: Format version; empty if it could not be read.
        kind: What it holds; empty if it could not be read.
        rows: Number of rows; 0 if it was not read.
        dim: Columns of `data`.
        dtype: Number format of `data`.
        bytes: Size.
        provenance: What decided the numbers; empty for files of older programs.
    """

    path: Path
    status: str
    reason: str = ""
    version: str = ""
    kind: str = ""
    rows: int = 0
    dim: int = 0
    dtype: str = ""
    bytes: int = 0
    provenance: dict[str, Any] | None = None

    @property
    def bad(self) -> bool:
        """Whether the file cannot be used as what it is meant to be."""
        return self.status in ("damaged", "incompatible", "missing")


def audit(folder: Path, *, full: bool) -> Iterator[Finding]:
    """Examine every checkpoint below a folder.

    Args:
        folder: Where to look, recursively; quarantined files are left out.
        full: Read and check everything; otherwise only records and sizes (microseconds a file).

    Yields:
        A finding for each data file, and for each record whose data file is missing, by folder and name.
    """
    folders = sorted({path.parent for path in folder.rglob("*.pt*")})
    for place in folders:
        if QUARANTINE not in place.relative_to(folder).parts:
            yield from _audit_folder(place, full=full)


def audit_store(store: Store, *, full: bool) -> Iterator[Finding]:
    """Examine every checkpoint of a store, wherever it is kept; what no record names is for `sweep` to list.

    Args:
        store: The store.
        full: Read and check everything; otherwise only records and sizes.

    Yields:
        A finding for each commit record, by name.
    """
    for record_path in store.medium.glob(f"*/*/*{RECORD_SUFFIX}"):
        if record_path.parent.parent.name == QUARANTINE:
            continue
        try:
            record = store.record_at(record_path)
            if record is None:
                continue  # removed meanwhile
            if full:
                store.load_at(record_path, Level.FULL)
        except CheckpointError as error:
            status = "incompatible" if isinstance(error, CheckpointIncompatibleError) else "damaged"
            yield Finding(record_path, status, error.reason)
        else:
            yield _ok(record_path.parent / record.file, record)


def examine(path: Path) -> Finding:
    """What one file is, from its record or, for a file of an older program, from its structure; no tensor is loaded.

    Args:
        path: A data file or a commit record.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if path.name.endswith(RECORD_SUFFIX) and path.stat().st_size:
        return _committed(path, full=False)
    data_path = path.with_name(path.name.removesuffix(".done"))
    for record_path in sorted(data_path.parent.glob(f"{data_path.name.split('.')[0]}{RECORD_SUFFIX}")):
        if record_path.stat().st_size:
            finding = _committed(record_path, full=False)
            if finding.path.name == data_path.name:
                return finding
    finding = _uncommitted(data_path, full=True, level=Level.SKIP)
    return _uncommitted(data_path, full=True) if finding.bad else finding  # a segment holds no tensor to leave out


def _audit_folder(folder: Path, *, full: bool) -> Iterator[Finding]:
    named: set[str] = set()
    odd = [path for path in folder.glob("*.pt*") if path.is_symlink() or not path.is_file()]
    yield from (Finding(path, "damaged", "corrupted: not a regular file") for path in sorted(odd))
    for record_path in sorted(path for path in folder.glob(f"*{RECORD_SUFFIX}") if path not in odd):
        if record_path.stat().st_size == 0:
            if not record_path.with_name(record_path.name.removesuffix(".done")).exists():  # else: the marker of 1.0
                yield Finding(record_path, "damaged", "corrupted: commit record is empty")
            continue
        finding = _committed(record_path, full=full)
        named.add(finding.path.name)
        yield finding
        for older in _previous(record_path):
            named.add(older.name)
            yield _superseded(older, full=full)
    for path in sorted(folder.glob("*.pt")):
        if path.name not in named and path not in odd:
            yield _uncommitted(path, full=full)
    for path in sorted(folder.glob(f".*{TEMPORARY_SUFFIX}")):
        yield Finding(path, "leftover", "of a writer that died or is at work", bytes=path.stat().st_size)


def _committed(record_path: Path, *, full: bool) -> Finding:
    """The checkpoint behind a commit record."""
    path = record_path
    try:
        record = read_record(record_path, record_path.read_bytes()[: RECORD_BYTES_MAX + 1])
        path = record_path.parent / record.file
        if not path.exists():
            raise CheckpointDamagedError(path, "corrupted: data file is missing")
        size = path.stat().st_size
        check_size(size, path, record)
        if full:
            read_payload(path.read_bytes(), path, record, Level.FULL)
    except CheckpointError as error:
        return _bad(path, error)
    return _ok(path, record)


def _ok(path: Path, record: CommitRecord) -> Finding:
    return Finding(
        path, "ok", version=record.version, kind=record.kind, rows=record.rows, dim=record.dim, dtype=record.dtype,
        bytes=record.bytes, provenance=record.provenance,
    )  # fmt: skip


def _bad(path: Path, error: CheckpointError) -> Finding:
    status = "incompatible" if isinstance(error, CheckpointIncompatibleError) else "damaged"
    return Finding(path, status, error.reason, bytes=path.stat().st_size if path.exists() else 0)


def _previous(record_path: Path) -> list[Path]:
    try:
        record = read_record(record_path, record_path.read_bytes()[: RECORD_BYTES_MAX + 1])
    except CheckpointError:
        return []
    return [path for name in record.previous if (path := record_path.parent / name).exists()]


def _superseded(path: Path, *, full: bool) -> Finding:
    finding = _uncommitted(path, full=full)
    return finding if finding.bad else Finding(**{**vars(finding), "status": "superseded", "reason": ""})


def _uncommitted(path: Path, *, full: bool, level: Level = Level.FULL) -> Finding:
    """A data file that no record names: a leftover by its name, otherwise a file of an older program."""
    size = path.stat().st_size
    address = _CONTENT_ADDRESS.search(path.name)
    try:
        check_size(size, path, None)
        if not full:
            return Finding(path, "leftover" if address else "ok", bytes=size)
        data = path.read_bytes()
        if address:
            _check_address(path, data, address[1])
        if not address and level is Level.FULL:
            return _older_program(path, size)
        payload = read_payload(data, path, None, level, map_location="meta" if level is Level.SKIP else "cpu")
    except CheckpointError as error:
        return _bad(path, error)
    rows, dim, dtype = shape_of(payload)
    return Finding(
        path, "leftover" if address else "ok", "no record names it" if address else "", bytes=size, rows=rows, dim=dim,
        dtype=dtype, kind=str(payload["kind"]), version=str(payload.get("migrated_from", payload["version"])),
    )  # fmt: skip


def _older_program(path: Path, size: int) -> Finding:
    """A file of an older program, read in full."""
    old = read_legacy(path)
    rows, dim = old.data.shape
    return Finding(path, "ok", version=old.version, kind=old.kind, rows=rows, dim=dim, dtype="float32", bytes=size)


def _check_address(path: Path, data: bytes, address: str) -> None:
    if not hashlib.sha256(data).hexdigest().startswith(address):
        raise CheckpointDamagedError(path, "corrupted: digest differs from the one in its name")
