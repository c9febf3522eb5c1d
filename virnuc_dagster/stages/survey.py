"""What is due: which shards of a batch have no current result, and why. Records are read, never a tensor.

The scheduled backfill asks this of every batch. The answer is always taken from the store, so it does not matter why a
result is not there: never computed, failed, set aside as damaged, or made with another bundle.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from virnuc_dagster.checkpoints import CheckpointError, CheckpointStore
from virnuc_dagster.embedding.device import Precision
from virnuc_dagster.report import paths
from virnuc_dagster.stages.batch import batch_provenance
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS, SEQUENCES
from virnuc_dagster.stages.records import RecordCache, Records
from virnuc_dagster.stages.shards import PredictionStage, ShardStage
from virnuc_dagster.stages.staleness import State, compare, state_of

if TYPE_CHECKING:
    from virnuc_dagster.models.bundle import Bundle

#: A run over a shard that needs nothing costs about this much of what a run of its own costs (0.16 s against 5.3 s).
_GAP_MAX = 20


@dataclass
class Due:
    """What a batch lacks.

    Attributes:
        batch: Its key.
        shards: All of its shards, in order; empty while it is not cut.
        cut: Why it must be cut into frames (again); empty if it need not be.
        states: Stage -> shard -> `MISSING`, `DAMAGED` or `STALE`; others are left out.
        report: Why its report must be made (again); empty if it need not be.
    """

    batch: str
    shards: list[str] = field(default_factory=list)
    cut: str = ""
    states: dict[str, dict[str, State]] = field(default_factory=dict)
    report: str = ""

    def __bool__(self) -> bool:
        return bool(self.cut or self.due_shards or self.report)

    @property
    def due_shards(self) -> list[str]:
        """Shards that lack something, in order."""
        lacking = {shard for states in self.states.values() for shard in states}
        return [shard for shard in self.shards if shard in lacking]

    def describe(self) -> str:
        """In a few words, for a log: `predictions: 1 damaged; report: ...`."""
        parts = [f"cut: {self.cut}"] if self.cut else []
        for stage, states in self.states.items():
            counts = ", ".join(f"{number:,} {state}" for state, number in sorted(Counter(states.values()).items()))
            parts += [f"{stage}: {counts}"] if counts else []
        return "; ".join(parts + ([f"report: {self.report}"] if self.report else [])) or "nothing"


def survey_batch(
    store: CheckpointStore, predictions: PredictionStage, batch: str, shards: Sequence[str], reports: Path
) -> Due:
    """Compare what is stored of a batch with what is wanted.

    Args:
        store: The store.
        predictions: The last shard stage with the wanted bundle and precision; its inputs are looked at too.
        batch: Key of a batch whose sequences are stored.
        shards: Its shards as they are registered, in order.
        reports: Folder of the reports.
    """
    due = Due(batch, list(shards))
    stages: list[ShardStage] = [*predictions.inputs, predictions]
    results = (shard_checkpoint(stage.name, shard) for stage in stages for shard in shards)
    records = RecordCache(store, [*(shard_checkpoint(FRAMES, shard) for shard in shards), *results])
    due.cut = _why_cut(records, store, batch, due.shards)
    if due.cut:
        return due
    for stage in stages:
        states = {shard: state_of(stage, shard, records).state for shard in due.shards}
        done = (State.CURRENT, State.UNKNOWN)  # unknown: its input is due, and is most likely made the same again
        due.states[stage.name] = {shard: state for shard, state in states.items() if state not in done}
    if not due.due_shards:
        due.report = _why_report(records, predictions, batch, due.shards, reports)
    return due


def _why_cut(records: Records, store: CheckpointStore, batch: str, shards: Sequence[str]) -> str:
    wanted = batch_provenance(store, batch)
    for key in (batch_checkpoint(BATCH, batch), *(shard_checkpoint(FRAMES, shard) for shard in shards)):
        found = compare(key, wanted, records)
        if found.state is State.MISSING:
            return f"{key} is missing"
        if isinstance(found.error, CheckpointError):
            return f"{key}: {found.error.reason}"
        if found.reasons:
            return f"{key}: {found.reasons[0]}"
    stored = [key.shard for key in store.list(FRAMES, batch)]  # by name: shard 10000 comes before shard 9999
    return (
        ""
        if stored == sorted(shards)
        else f"{len(shards):,} shards are registered, frames of {len(stored):,} are stored"
    )


def _why_report(records: Records, stage: PredictionStage, batch: str, shards: Sequence[str], reports: Path) -> str:
    """Compare the digests that a report was made from with those of the stored predictions."""
    folder = reports / batch
    try:
        made = json.loads((folder / paths.PROVENANCE).read_bytes())
        sources = {key: facts["sha256"] for key, facts in made["checkpoints"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "there is none"
    if absent := [name for name in paths.REPRODUCIBLE if not (folder / name).exists()]:
        return f"{absent[0]} is missing"
    for name, wanted in stage.bundle.verdict_provenance().items():
        if made.get(name) != wanted:
            return f"made with {name} {made.get(name)}, now {wanted}"
    for shard in shards:
        key = shard_checkpoint(PREDICTIONS, shard)
        record = records.record(key)
        if record is None or sources.get(str(key)) != record.sha256:
            return f"made without the predictions of {shard} as they are now"
    return ""


def ranges(shards: Sequence[str], due: Sequence[str], longest: int) -> list[tuple[str, str]]:
    """Few runs of consecutive shards that cover all that are due.

    Args:
        shards: All shards of the batch, in order.
        due: Those that need work, in order.
        longest: Shards of one run at most.

    Returns:
        First and last shard of each run. Up to 20 shards that need nothing lie between two that do: passing over them
        costs less than another run.
    """
    found: list[tuple[int, int]] = []
    place = {shard: index for index, shard in enumerate(shards)}
    for index in (place[shard] for shard in due):
        if found and index - found[-1][1] <= _GAP_MAX and index - found[-1][0] < longest:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return [(shards[first], shards[last]) for first, last in found]


def wanted_digest(bundle: "Bundle", precision: Precision) -> str:
    """A digest of everything that decides a run's numbers: what failed with it may work with another."""
    facts = {
        **{encoder.part: bundle.provenance(encoder.part, precision) for encoder in bundle.spec.encoders},
        "head": bundle.provenance("head"),
        "verdicts": bundle.verdict_provenance(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def stored_batches(store: CheckpointStore) -> Iterator[tuple[str, str]]:
    """Every batch whose sequences are stored, with the time it was added, the oldest first."""
    found, keys = [], store.list(SEQUENCES)
    for key, record in zip(keys, store.records(keys), strict=True):
        if isinstance(record, CheckpointError):
            continue  # the audit names it; it cannot be computed again, only added again
        found.append((record.created_at if record else "", key.batch))
    yield from ((batch, added_at) for added_at, batch in sorted(found))
