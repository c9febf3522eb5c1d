"""What became of the runs of a batch's step, and where the batch goes next.

A batch with a run of its own is judged by that run. Batches that shared one are judged each by what the store holds of
them: if the run failed, those that are in order go on together, and the others are tried again in ever smaller groups,
at last alone. So one bad batch, even one that kills its run, is no matter of its neighbours.
"""

import sys
import time
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from math import isqrt

import dagster as dg

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import BatchEntry, Ledger, NextStep, Range
from virnuc_dagster.orchestration.automation.due import due_of, wanted_stage
from virnuc_dagster.orchestration.automation.steps import (
    CUT,
    REPORT,
    REST,
    SHARDS,
    failure_reason,
    runs_of,
    unfinished,
    whole,
)
from virnuc_dagster.orchestration.checks import keys_of_embedding_checks, keys_of_shard_checks, red_partitions
from virnuc_dagster.orchestration.partitions import Registered
from virnuc_dagster.stages.pipeline import PREDICTIONS
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.survey import Due

#: A step whose run does not show up this long after it was requested is requested again.
LOST_AFTER_SECONDS = 120.0


class Mover:
    """Moves batches on, by what became of the runs of their steps.

    Args:
        instance: Has the runs and the partitions.
        ledger: Has the batches.
        settings: What is wanted, and how often a failure is tried again.
    """

    def __init__(self, instance: dg.DagsterInstance, ledger: Ledger, settings: Settings) -> None:
        self.instance, self.ledger, self.settings = instance, ledger, settings

    @cached_property
    def registered(self) -> Registered:
        """The shards that are partitions, read once."""
        return Registered(self.instance)

    def next_steps(self, entries: Sequence[BatchEntry]) -> list[NextStep]:
        """Where batches go now; those whose runs are at work stay, and those that are done are put to rest."""
        together: dict[str, list[BatchEntry]] = {}
        for entry in entries:
            together.setdefault(entry.shared or entry.batch, []).append(entry)
        return [step for members in together.values() for step in self._after(members)]

    def _after(self, members: Sequence[BatchEntry]) -> list[NextStep]:
        """Where the batches of one run go, or one batch that has runs of its own."""
        first = members[0]
        runs = runs_of(self.instance, first) if first.requested_at else []
        if unfinished(runs):
            return []
        if len(runs) < (1 if first.shared else max(len(first.ranges), 1)):
            if abs(time.time() - first.requested_at) < LOST_AFTER_SECONDS:  # the clock may have been set back
                return []  # about to be launched
            return [NextStep(entry, entry.step, entry.ranges) for entry in members]
        if first.shared:
            return self._after_shared(members, runs[0])
        failed = [run for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
        return self._forward(first, failure_reason(self.instance, failed[0]) if failed else "")

    def _after_shared(self, members: Sequence[BatchEntry], run: dg.DagsterRun) -> list[NextStep]:
        """Where batches go whose run has ended; each failure makes the groups of those concerned smaller."""
        if run.status is dg.DagsterRunStatus.CANCELED:  # someone wants it to stop: tried again after a while
            for entry in members:
                self.ledger.finish(entry.batch, failure_reason(self.instance, run), self.settings.attempts_max)
            return []
        succeeded = run.status is dg.DagsterRunStatus.SUCCESS
        sound = [entry for entry in members if self._is_in_order(entry, succeeded)]
        others = [entry for entry in members if entry not in sound]
        found = [_again(entry, isqrt(len(others))) for entry in others]
        if succeeded:
            return found + [step for entry in sound for step in self._forward(entry, "")]
        at_most = sys.maxsize if others else isqrt(len(sound))
        return found + [_again(entry, at_most) for entry in sound]  # for what follows a failure was not done for them

    def _is_in_order(self, entry: BatchEntry, succeeded: bool) -> bool:
        """Whether the store holds what a batch's step was to make; of a failed run, what no other batch can prevent."""
        if entry.step == REPORT and entry.reason:
            return succeeded  # it is known to be incomplete
        due = self._due(entry.batch)
        if due is None:
            return succeeded
        if due.cut or entry.step == CUT:
            return not due.cut
        if entry.step == REPORT:
            return not due
        if succeeded:
            return not due.due_shards
        embedded = not any(states for stage, states in due.states.items() if stage != PREDICTIONS)
        return embedded and self._red.isdisjoint(due.shards)

    def _due(self, batch: str) -> Due | None:
        """What a batch lacks; None while the store or the bundle is away."""
        try:
            return due_of(self._stage, self.registered, batch, self.settings.reports)
        except VirnucError:
            return None

    @cached_property
    def _stage(self) -> PredictionStage:
        return wanted_stage(self.settings)

    @cached_property
    def _red(self) -> set[str]:
        """Shards that a blocking check has stopped."""
        return red_partitions(self.instance, keys_of_shard_checks())

    def _forward(self, entry: BatchEntry, failure: str) -> list[NextStep]:
        """The step after this one; at the end the batch is put to rest."""
        if entry.step == REPORT or (entry.step == CUT and failure):
            self.ledger.finish(entry.batch, entry.reason or failure, self.settings.attempts_max)
            return []
        if entry.step == CUT:
            ranges = whole(self.registered.of(entry.batch), self.settings.shards_per_run)
            return [NextStep(entry, SHARDS if ranges else REPORT, tuple(ranges))]
        if entry.step == SHARDS and failure and (sound := self._sound(entry)):
            # so many bad shards are no matter of single ones
            return [NextStep(entry, REST, tuple(sound[: self.settings.runs_per_tick]), failure)]
        return [NextStep(entry, REPORT, (), failure)]

    def _sound(self, entry: BatchEntry) -> list[Range]:
        """The ranges of a step without the shards whose embeddings a check has stopped."""
        red = red_partitions(self.instance, keys_of_embedding_checks())
        if not red:
            return list(entry.ranges)
        shards = self.registered.of(entry.batch)
        found: list[Range] = []
        for first, last in entry.ranges:
            if first not in shards or last not in shards:
                continue  # taken out of the partitions meanwhile: the next round registers them again
            of_range = shards[shards.index(first) : shards.index(last) + 1]
            for stopped, group in groupby(of_range, lambda shard: shard in red):
                if not stopped:
                    sound = list(group)
                    found.append((sound[0], sound[-1]))
        return found


def _again(entry: BatchEntry, together: int) -> NextStep:
    """The same step once more, with so many batches in one run at most."""
    return NextStep(entry, entry.step, entry.ranges, together=together)
