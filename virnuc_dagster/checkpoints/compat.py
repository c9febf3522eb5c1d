"""The functions that users of the earlier code know, with the same meaning, on plain file paths.

`path` is what the earlier code called a checkpoint: `<folder>/<name>.pt`. Here `<name>.pt.done` is the commit record,
and the data lies beside it under a name with its digest, so that a marker vouches for exact bytes: a stale marker, or
one beside other data, does not count. Errors are `CheckpointError` with `error_type` `corrupted` or `incompatible` and
exit code 3.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints.audit import Finding, examine
from virnuc_dagster.checkpoints.errors import CheckpointError, CheckpointMissingError
from virnuc_dagster.checkpoints.failed import FailedCheckpoint, log_failed, read_failed
from virnuc_dagster.checkpoints.format import FAILED_LIST, CommitRecord, Payload
from virnuc_dagster.checkpoints.legacy import read_legacy
from virnuc_dagster.checkpoints.medium import LocalMedium
from virnuc_dagster.checkpoints.store import Store
from virnuc_dagster.checkpoints.validate import Level

EXIT_CODE = CheckpointError.exit_code


def atomic_save(payload: Payload, path: Path, kind: str, provenance: Mapping[str, Any] | None = None) -> CommitRecord:
    """Save a checkpoint so that a crash leaves the previous one or the new one; validated before it replaces anything.

    Unlike the earlier function it also syncs to disk, and writes the marker in the same step.
    """
    return _store(path).save_as(_record_path(path), kind, payload, provenance or {})


def has_done_marker(path: Path) -> bool:
    """Whether the checkpoint is complete: a record that names a data file of the right size. Loads nothing.

    An empty marker beside a file of version 1.0 counts, as it did.
    """
    marker = _record_path(path)
    if path.exists() and marker.exists() and marker.stat().st_size == 0:
        return path.stat().st_size > 0
    try:
        return _store(path).record_at(marker) is not None
    except CheckpointError:
        return False


def create_done_marker(path: Path) -> CommitRecord:
    """Commit a finished file that has no record yet: validated, copied under its digest, recorded.

    Raises:
        CheckpointError: The file is not a whole checkpoint; nothing is marked.
    """
    payload = load_with_compatibility(path)
    return atomic_save({k: v for k, v in payload.items() if k != "kind"}, path, str(payload["kind"]))


def remove_done_marker(path: Path) -> None:
    """Make a checkpoint count as not complete. Its data file stays until the next sweep."""
    _store(path).medium.unlink(_record_path(path))


def load_with_compatibility(path: Path) -> Payload:
    """Load a checkpoint of any version, current or older, as a current payload.

    Raises:
        CheckpointError: Damaged, unfinished or of an unknown version (`error_type` says which).
        CheckpointMissingError: Nothing is there.
    """
    marker = _record_path(path)
    if marker.exists() and marker.stat().st_size:
        return _store(path).load_at(marker)
    try:
        old = read_legacy(path)
    except FileNotFoundError as error:
        raise CheckpointMissingError(path) from error
    return {"version": old.version, "kind": old.kind, "ids": old.ids, "data": old.data}


def validate_checkpoint(path: Path) -> tuple[bool, str]:
    """Check one checkpoint at every level; (True, "") or (False, reason)."""
    marker = _record_path(path)
    try:
        if marker.exists() and marker.stat().st_size:
            _store(path).load_at(marker, Level.FULL)
        else:
            read_legacy(path)
    except FileNotFoundError:
        return False, "missing: no such file"
    except CheckpointError as error:
        return False, error.reason
    return True, ""


def validate_checkpoints(paths: Iterable[Path]) -> dict[Path, tuple[bool, str]]:
    """Check many; one that fails does not stop the others."""
    return {path: validate_checkpoint(path) for path in paths}


def checkpoint_info(path: Path) -> Finding:
    """Version, kind, rows, dims, dtype and provenance, without loading tensors."""
    return examine(path)


def log_failed_checkpoint(folder: Path, path: Path, reason: str) -> None:
    """Add a line to `failed_checkpoints.txt` of a folder; the list keeps its newest lines."""
    log_failed(LocalMedium(folder), path, reason)


def load_failed_checkpoints(folder: Path) -> list[FailedCheckpoint]:
    """Read `failed_checkpoints.txt` of a folder back, oldest first."""
    return read_failed(folder / FAILED_LIST)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".done")


def _store(path: Path) -> Store:
    return Store(LocalMedium(path.parent))
