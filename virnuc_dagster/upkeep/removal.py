"""Taking a batch out of a home: its checkpoints, its report, and a line that says so."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from virnuc_dagster.checkpoints import CheckpointError, CheckpointKey, CheckpointStore
from virnuc_dagster.files import write_atomic
from virnuc_dagster.home.origins import forget_origins
from virnuc_dagster.stages.keys import is_batch_key
from virnuc_dagster.stages.pipeline import FRAMES, STAGES

REMOVED_LIST = "removed_batches.jsonl"


@dataclass(frozen=True)
class BatchFiles:
    """What a home holds of one batch.

    Attributes:
        batch: Its key.
        checkpoints: Keys of its checkpoints, in the order in which they may be removed.
        bytes: Size of their current data files.
        report: Folder of its report, if there is one.
    """

    batch: str
    checkpoints: tuple[CheckpointKey, ...]
    bytes: int
    report: Path | None

    @property
    def shards(self) -> list[str]:
        """Keys of the shards whose frames are stored."""
        return [key.shard for key in self.checkpoints if key.stage == FRAMES]


def batch_files(store: CheckpointStore, reports: Path, batch: str) -> BatchFiles:
    """Everything that is stored of a batch; damaged checkpoints count too."""
    if not is_batch_key(batch):  # a partition that someone added by hand; as a path it could mean anything
        return BatchFiles(batch, (), 0, None)
    keys = tuple(key for stage in reversed([*STAGES]) for key in store.list(stage, batch))
    size = 0
    for key in keys:
        try:
            record = store.record(key)
        except CheckpointError:
            continue
        size += record.bytes if record else 0
    report = reports / batch
    return BatchFiles(batch, keys, size, report if report.is_dir() else None)


def remove_batch(store: CheckpointStore, home: Path, found: BatchFiles) -> None:
    """Remove a batch's checkpoints and report; note it in `removed_batches.jsonl`.

    May be repeated after a crash: the sequences go last, so that the batch stays listed until all of it is gone.
    """
    for key in found.checkpoints:
        store.remove(key)
    if found.report:
        shutil.rmtree(found.report)
    forget_origins(home, found.batch)
    line = {
        "batch": found.batch,
        "removed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoints": len(found.checkpoints),
        "bytes": found.bytes,
    }
    log = home / REMOVED_LIST
    before = log.read_bytes() if log.exists() else b""
    write_atomic(log, before + json.dumps(line).encode() + b"\n")
