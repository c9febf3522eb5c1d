"""Reading the whole store, every byte of every current checkpoint, and setting aside what is damaged."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from virnuc_dagster.checkpoints import CheckpointError, CheckpointKey, CheckpointStore, CommitRecord, Level
from virnuc_dagster.stages.pipeline import COMPUTED, STAGES


@dataclass
class StageAudit:
    """A row of the audit's table: counts of one stage.

    Attributes:
        stage: Its name.
        shards: Checkpoints found.
        bytes: Their data files together.
        ok: Whole ones.
        damaged: Those whose bytes are not the committed ones, or that cannot be read by this version.
        stale: Whole ones that are not current.
        missing: Results that are not there.
        oldest_version: The oldest format version among them.
    """

    stage: str
    shards: int = 0
    bytes: int = 0
    ok: int = 0
    damaged: int = 0
    stale: int = 0
    missing: int = 0
    oldest_version: str = ""


@dataclass
class StoreAudit:
    """What an audit found.

    Attributes:
        stages: A row a stage.
        damaged: Checkpoint -> what is wrong with it.
        lost: Checkpoints that were stored once and are missing.
    """

    stages: dict[str, StageAudit] = field(default_factory=dict)
    damaged: dict[CheckpointKey, str] = field(default_factory=dict)
    lost: list[CheckpointKey] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that was stored is there, and every byte of it right."""
        return not self.damaged and not self.lost

    def rows(self) -> list[dict[str, int | str]]:
        """The table, a dict a row."""
        return [dataclasses.asdict(row) for row in self.stages.values()]


def read_stage(
    store: CheckpointStore, stage: str, batch: str | None = None
) -> Iterator[tuple[CheckpointKey, CommitRecord | None, CheckpointError | None]]:
    """Read every current checkpoint of a stage (of one batch) at every validation level.

    Yields:
        Each key with its record, and with the error if it is not whole; the record is None if it cannot be read.
    """
    for key in store.list(stage, batch):
        record = None
        try:
            record = store.record(key)
            store.load(key, Level.FULL)
        except CheckpointError as error:
            yield key, record, error
        else:
            yield key, record, None


def audit_store(store: CheckpointStore) -> StoreAudit:
    """Read everything; nothing is changed. Missing and stale results are for a survey to count."""
    found = StoreAudit()
    for stage in STAGES:
        row = found.stages[stage] = StageAudit(stage)
        versions: set[tuple[int, ...]] = set()
        for key, record, error in read_stage(store, stage):
            row.shards += 1
            if record:
                row.bytes += record.bytes
                versions.add(tuple(map(int, record.version.split("."))))
            if error:
                row.damaged += 1
                found.damaged[key] = error.reason
            else:
                row.ok += 1
        row.oldest_version = ".".join(map(str, min(versions))) if versions else ""
    return found


def set_aside(store: CheckpointStore, damaged: dict[CheckpointKey, str]) -> list[CheckpointKey]:
    """Quarantine damaged results, so that they count as missing and are computed again.

    Damaged sequences stay where they are: they cannot be computed, only added again from their file.

    Returns:
        What was set aside.
    """
    found = [key for key in damaged if key.stage in COMPUTED]
    for key in found:
        store.quarantine(key, damaged[key])
    return found
