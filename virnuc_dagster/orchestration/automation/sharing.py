"""Small batches share runs: which of them go together, and the runs of their next steps.

A run costs seconds before it computes anything, so thousands of small files must not have one each. Batches that are at
the same step and follow each other among the partitions are one range, and a range is one run. A batch with more
frames than `shared_frames` has runs of its own.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointStore, CommitRecord
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.binding import open_bound_store
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger, NextStep
from virnuc_dagster.orchestration.automation.steps import (
    BATCHES_TAG,
    CUT,
    REST,
    SHARDS,
    STEP_TAG,
    requests,
    shared_request,
)
from virnuc_dagster.orchestration.partitions import Registered, batches
from virnuc_dagster.orchestration.private import NOT_FINISHED_STATUSES
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES

#: A batch with more shards than this has runs of its own, however few its frames.
_SHARDS_MAX = 100
#: Finished small batches that may lie between two of a run: passing over one costs less than another run.
_GAP_MAX = 10
#: While so many runs of small batches are unfinished at a step, the next waits until it is worth its cost.
_UNFINISHED_MAX = 2


@dataclass
class _Group:
    """Batches of one run: their next steps, the place of the last one, and the frames of all that the range covers."""

    steps: list[NextStep]
    last: int
    frames: int


class Sharing:
    """Requests the runs of next steps, and tells the ledger.

    Args:
        instance: Has the partitions and runs.
        ledger: Has the batches.
        settings: How many batches, and frames, may share a run.
        registered: The shards that are partitions.
    """

    def __init__(
        self, instance: dg.DagsterInstance, ledger: Ledger, settings: Settings, registered: Registered
    ) -> None:
        self.instance, self.ledger, self.settings, self.registered = instance, ledger, settings, registered
        self._frames: dict[str, int | None] = {}
        self._unfinished: dict[str, int] = {}

    def requests(self, steps: Sequence[NextStep], limit: int) -> list[dg.RunRequest]:
        """Runs for as many of these steps as the limit allows; the others stay as they are until the next tick.

        Args:
            steps: Those that come first are served first.
            limit: Of runs; a batch with several ranges may exceed it.
        """
        found: list[dg.RunRequest] = []
        for group in self._groups(steps):
            if len(found) >= limit:
                break
            if not self._waits(group):
                found += self._request(group.steps)
        return found

    def cost(self, step: NextStep) -> float:
        """How many runs a step takes: its ranges, or a small batch's part of a shared run."""
        self._learn_frames([step.entry.batch])
        if not self._is_small(step):
            return max(len(step.ranges), 1)
        frames = self._frames[step.entry.batch] or 0
        return max(1 / self.settings.batches_per_run, frames / self.settings.shared_frames)

    def _request(self, steps: Sequence[NextStep]) -> list[dg.RunRequest]:
        """The runs of one group, whose batches are now at these steps; a batch that was removed meanwhile has none."""
        first = steps[0]
        name = f"{first.entry.batch}:{first.entry.round}:{first.step}:{time.time():.3f}"
        shared = name if len(steps) > 1 else ""
        entries = self.ledger.move_on(steps, shared)
        if shared:
            return [shared_request(entries, self.settings)] if entries else []
        tags = {BATCHES_TAG: "1"} if self._is_small(first) else {}
        return [request for entry in entries for request in requests(entry, self.settings, tags)]

    def _waits(self, group: _Group) -> bool:
        """Whether a run that is far from full is put off, because those before it are not done yet."""
        first, full = group.steps[0], self.settings.batches_per_run
        if not self._is_small(first) or any(step.together < full for step in group.steps):
            return False
        if len(group.steps) >= full or 2 * group.frames > self.settings.shared_frames:
            return False
        if first.step not in self._unfinished:
            filters = dg.RunsFilter(tags={STEP_TAG: first.step}, statuses=list(NOT_FINISHED_STATUSES))
            self._unfinished[first.step] = sum(BATCHES_TAG in run.tags for run in self.instance.get_runs(filters))
        self._unfinished[first.step] += 1
        return self._unfinished[first.step] > _UNFINISHED_MAX

    def _groups(self, steps: Sequence[NextStep]) -> list[_Group]:
        """All steps, small batches together with their neighbours, in the order in which the steps came."""
        self._learn_frames([step.entry.batch for step in steps])
        found = [_Group([step], 0, 0) for step in steps if not self._is_small(step)]
        alike: dict[tuple[str, int], list[NextStep]] = {}  # what failed before does not go with what is new
        for step in filter(self._is_small, steps):
            alike.setdefault((step.step, step.entry.failures), []).append(step)
        for of_a_kind in alike.values():
            found += self._neighbours(of_a_kind)
        number = {id(step): place for place, step in enumerate(steps)}
        return sorted(found, key=lambda group: min(number[id(step)] for step in group.steps))

    def _neighbours(self, steps: Sequence[NextStep]) -> list[_Group]:
        """Small batches at one step, as groups that are one range of partitions each."""
        place = self._places(steps[0].step)
        order = list(place)
        found: list[_Group] = []
        for step in sorted(steps, key=lambda step: place[step.entry.batch]):
            number, frames = place[step.entry.batch], self._frames[step.entry.batch] or 0
            group = found[-1] if found else None
            if group and (between := self._frames_between(order[group.last + 1 : number])) is not None:
                frames_together = group.frames + between + frames
                at_most = min(self.settings.batches_per_run, *(each.together for each in (*group.steps, step)))
                if len(group.steps) < at_most and frames_together <= self.settings.shared_frames:
                    group.steps.append(step)
                    group.last, group.frames = number, frames_together
                    continue
            found.append(_Group([step], number, frames))
        return found

    def _frames_between(self, names: Sequence[str]) -> int | None:
        """Frames of the batches between two of a run; None if one of them must not be passed over.

        Those that are done are skipped by a glance, and should one be outdated, it is small.
        """
        entries = [self.ledger.batch(name) for name in names] if len(names) <= _GAP_MAX else [None]
        if not all(entry and entry.step == "done" and not entry.reason for entry in entries):
            return None
        self._learn_frames(names)
        frames = [self._frames[name] for name in names]
        return None if None in frames else sum(number or 0 for number in frames)

    def _places(self, step: str) -> dict[str, int]:
        """Place of each batch in the order of the partitions that a step's runs are over."""
        return self._by_shards if step == SHARDS else self._by_name

    @cached_property
    def _by_shards(self) -> dict[str, int]:
        return {batch: number for number, batch in enumerate(self.registered.in_order)}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        names = self.instance.get_dynamic_partitions(str(batches.name))
        return {batch: number for number, batch in enumerate(names)}

    @cached_property
    def _store(self) -> CheckpointStore:
        """Opened once a tick, and only if something must be counted."""
        return open_bound_store(self.settings)

    def _is_small(self, step: NextStep) -> bool:
        """Whether a step may share a run."""
        batch = step.entry.batch
        if step.step == REST or min(step.together, self.settings.batches_per_run) < 2 or len(step.ranges) > 1:
            return False
        if step.step == CUT and not self.registered.of(batch):
            return False  # nothing says yet how large it is
        return self._frames[batch] is not None and batch in self._places(step.step)

    def _learn_frames(self, names: Iterable[str]) -> None:
        """Count the frames of batches; None for those that are too large, in disorder, or cannot be read."""
        unknown = {name: self.registered.of(name) for name in names if name not in self._frames}
        self._frames |= dict.fromkeys(unknown)
        small = {
            name: shards
            for name, shards in unknown.items()
            if len(shards) <= _SHARDS_MAX and not self.registered.is_torn(name)
        }
        keys = [shard_checkpoint(FRAMES, shard) for shards in small.values() for shard in shards]
        try:
            records = dict(zip(keys, self._store.records(keys) if keys else [], strict=True))
        except VirnucError:
            return  # a store that is away: the runs tell
        for name, shards in small.items():
            rows = 0
            for shard in shards:
                record = records[shard_checkpoint(FRAMES, shard)]
                rows += record.rows if isinstance(record, CommitRecord) else self.settings.shard_size
            self._frames[name] = rows if rows <= self.settings.shared_frames else None
