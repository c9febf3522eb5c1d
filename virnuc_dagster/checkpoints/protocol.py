"""What every checkpoint store offers, whatever it is kept on. `tests/checkpoints/test_conformance.py` runs on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from virnuc_dagster.checkpoints.errors import CheckpointError
from virnuc_dagster.checkpoints.format import CheckpointKey, CommitRecord, Payload
from virnuc_dagster.checkpoints.validate import Level


@dataclass(frozen=True)
class Swept:
    """One file that a sweep removed, or would remove.

    Attributes:
        path: Relative to the root.
        bytes: Its size.
        why: `leftover`, `superseded` or `quarantined`.
    """

    path: str
    bytes: int
    why: str


class CheckpointStore(Protocol):
    """A place for checkpoints. Keys are `CheckpointKey`; payloads are dicts as `kinds.KINDS` says."""

    def save(
        self,
        key: CheckpointKey,
        payload: Payload,
        provenance: Mapping[str, Any],
        writer: Mapping[str, str] | None = ...,
    ) -> CommitRecord:
        """Validate and commit; the previous checkpoint stays until the new one is committed."""
        ...

    def load(self, key: CheckpointKey, level: Level = ...) -> Payload:
        """The committed payload, checked against its record."""
        ...

    def check_bytes(self, key: CheckpointKey) -> None:
        """Raise unless the committed bytes are those that the record's digest is of; cheaper than a load."""
        ...

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """The commit record after the quick check (record + size), or None if nothing is committed."""
        ...

    def records(self, keys: Sequence[CheckpointKey]) -> Sequence[CommitRecord | CheckpointError | None]:
        """What `record` returns or raises for each key, in their order."""
        ...

    def list(self, stage: str, batch: str | None = None) -> Sequence[CheckpointKey]:
        """Committed keys of a stage, sorted."""
        ...

    def remove(self, key: CheckpointKey) -> None:
        """Forget a checkpoint with its kept generations: record first, then data."""
        ...

    def quarantine(self, key: CheckpointKey, reason: str) -> None:
        """Set a damaged checkpoint aside with its reason; nothing is deleted."""
        ...

    def sweep(
        self,
        grace_seconds: float = ...,
        *,
        superseded: bool = ...,
        quarantine_seconds: float | None = ...,
        dry_run: bool = ...,
    ) -> Sequence[Swept]:
        """Remove what dead writers left behind and, if asked, kept generations and old quarantined files."""
        ...

    def free_bytes(self) -> int | None:
        """Space left for new checkpoints; None where it is not known (object stores)."""
        ...
