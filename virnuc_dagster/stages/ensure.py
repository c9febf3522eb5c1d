"""Making every shard's result current: reuse a stored one that is, compute and save the rest.

Three shards are in work at once: while shard k is computed, one thread prepares the inputs of shard k+1 and another
validates and writes shard k-1. At most one finished shard waits, commits keep the order of the shards, and nothing is
reported before it is committed.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from virnuc_dagster.checkpoints import CheckpointStore, CommitRecord, Difference, NoSpaceError, Payload
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.shards import ShardStage
from virnuc_dagster.stages.staleness import ShardState, state_of

#: Shards whose records are read together; a look at a shard that is reused may be as old as their work takes.
_LOOKS_AHEAD = 256


@dataclass(frozen=True)
class ShardResult:
    """A shard that is now committed.

    Attributes:
        record: Its record.
        reused: Whether the stored result was current already.
        reasons: Why a stored result was stale.
        seconds: Time spent computing it.
        tokens: Tokens an encoder was fed for it; 0 where there is no encoder.
        facts: How it was computed, where that differs from shard to shard, such as the token budget in force.
    """

    record: CommitRecord
    reused: bool
    reasons: tuple[Difference, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReuseDecision:
    """The state of a shard's result and, unless it is current, the inputs to compute it from."""

    state: ShardState
    inputs: Any = None


@dataclass(frozen=True)
class _Computed:
    """A shard that waits to be saved."""

    payload: Payload
    state: ShardState
    seconds: float
    tokens: int
    facts: Mapping[str, Any]


class NotTriedError(VirnucError):
    """A shard was left out because an earlier one met a full disk: computing it would have been for nothing."""

    exit_code = NoSpaceError.exit_code


def ensure_shards(
    stage: ShardStage,
    shards: Sequence[str],
    store: CheckpointStore,
    progress: Progress,
    writer: Mapping[str, str],
) -> Iterator[tuple[str, ShardResult | Exception]]:
    """Reuse or compute shard after shard; a shard that fails does not stop the others.

    Args:
        stage: What to compute.
        shards: Shard keys.
        store: Where results are kept.
        progress: Told of every frame, of each shard that is committed or failed, and why a stored one was stale.
        writer: Who writes, for the records.

    Yields:
        Every shard once, in order: `ShardResult` after its commit, or the error that kept it from being committed. Once
        the disk is full, the shards that would have to be computed are not tried (`NotTriedError`).
    """
    with ThreadPoolExecutor(1, "prepare") as preparer, ThreadPoolExecutor(1, "save") as saver:
        waiting: tuple[str, Future[ShardResult]] | None = None
        full = False
        for shard, decision in _one_ahead(stage, shards, store, preparer):
            begun = _reuse_or_compute(stage, shard, decision, progress, full=full)
            if waiting is not None:
                outcome = _wait_for_save(stage, *waiting, progress)
                full = full or isinstance(outcome, NoSpaceError)
                yield waiting[0], outcome
                waiting = None
            if isinstance(begun, _Computed):
                waiting = shard, saver.submit(_save, stage, shard, store, begun, writer)
            else:
                yield shard, begun
        if waiting is not None:
            yield waiting[0], _wait_for_save(stage, *waiting, progress)


def _one_ahead(
    stage: ShardStage, shards: Sequence[str], store: CheckpointStore, preparer: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[ReuseDecision]]]:
    """Yield every shard with its decision, which began while the shard before was worked on."""
    ahead: tuple[str, Future[ReuseDecision]] | None = None
    for shard, known in zip(shards, current_states(stage, shards, store), strict=True):
        following = shard, preparer.submit(_decide, stage, shard, store, known)
        if ahead is not None:
            yield ahead
        ahead = following
    if ahead is not None:
        yield ahead


def current_states(stage: ShardStage, shards: Sequence[str], store: CheckpointStore) -> Iterator[ShardState | None]:
    """Yield each shard's state if its result is current, else None; on an object store many are looked at at a time.

    What is not current yet may be when its turn comes, for another process may work on the same shards.
    """
    for first in range(0, len(shards), _LOOKS_AHEAD):
        some = shards[first : first + _LOOKS_AHEAD]
        keys = (key for shard in some for key in (*stage.reads(shard), shard_checkpoint(stage.name, shard)))
        records = RecordCache(store)
        with contextlib.suppress(VirnucError):  # what keeps a shard from being computed is said when its turn comes
            records.fetch(keys)
        for shard in some:
            state = None
            with contextlib.suppress(VirnucError):
                state = state_of(stage, shard, records)
            yield state if state and state.current else None


def _decide(stage: ShardStage, shard: str, store: CheckpointStore, known: ShardState | None = None) -> ReuseDecision:
    """Look, unless the shard is known to be current; prepare the inputs if it must be computed."""
    state = known or state_of(stage, shard, store).or_raise()
    return ReuseDecision(state, None if state.current else stage.prepare(shard))


def _reuse_or_compute(
    stage: ShardStage, shard: str, decision: Future[ReuseDecision], progress: Progress, *, full: bool
) -> ShardResult | _Computed | Exception:
    try:
        decided = decision.result()
        if result := reuse(stage, shard, decided.state, progress, full=full):
            return result
        if decided.state.reasons:
            progress.shard_stale(stage.name, shard, decided.state.reasons)
        return _compute(stage, decided, progress)
    except Exception as error:  # whatever it is, the other shards must have their chance
        progress.shard_failed(stage.name, shard, error)
        return error


def reuse(stage: ShardStage, shard: str, state: ShardState, progress: Progress, *, full: bool) -> ShardResult | None:
    """Return the stored result if it is current, else None; raises if the disk is full for another."""
    if stored := state.current:
        progress.shard_done(stage.name, shard, stored.rows, reused=True)
        return ShardResult(stored, True)
    if full:
        raise NotTriedError(f"{stage.name} of {shard} was not tried: no space left", hint="free some space first")
    return None


def _compute(stage: ShardStage, decided: ReuseDecision, progress: Progress) -> _Computed:
    began = time.monotonic()
    payload = stage.compute(decided.inputs, progress)
    facts = {"token_budget": stage.token_budget} if stage.token_budget else {}
    return _Computed(payload, decided.state, time.monotonic() - began, stage.tokens, facts)


def _save(
    stage: ShardStage, shard: str, store: CheckpointStore, computed: _Computed, writer: Mapping[str, str]
) -> ShardResult:
    """Commit one shard; runs in the saver's thread."""
    state = computed.state
    record = store.save(shard_checkpoint(stage.name, shard), computed.payload, state.wanted, writer)
    return ShardResult(record, False, state.reasons, computed.seconds, computed.tokens, computed.facts)


def _wait_for_save(
    stage: ShardStage, shard: str, save: Future[ShardResult], progress: Progress
) -> ShardResult | Exception:
    """Wait for a save and tell of it."""
    try:
        result = save.result()
    except Exception as error:
        progress.shard_failed(stage.name, shard, error)
        return error
    progress.shard_done(stage.name, shard, result.record.rows, reused=False)
    return result


class ShardWorker:
    """Makes the results of single shards current, for a pool that hands them out one by one.

    Calls from several threads overlap like the shards of `ensure_shards`: one is prepared, one computed, one saved.

    Args:
        stage: What to compute.
        store: Where results are kept.
        progress: Told of every frame.
        writer: Who writes, for the records.
    """

    def __init__(
        self, stage: ShardStage, store: CheckpointStore, progress: Progress, writer: Mapping[str, str]
    ) -> None:
        self.stage, self.store, self.progress, self.writer = stage, store, progress, writer
        self._preparing, self._computing, self._saving = threading.Lock(), threading.Lock(), threading.Lock()
        self._stopped = False

    def ensure(self, shard: str) -> ShardResult:
        """Reuse or compute a shard; it is committed when this returns.

        Raises:
            Exception: Whatever kept it from being committed.
        """
        with self._preparing:
            decided = _decide(self.stage, shard, self.store)
        if stored := decided.state.current:
            return ShardResult(stored, True)
        with self._computing:
            if self._stopped:
                raise NotTriedError(f"{self.stage.name} of {shard} was not tried: the run was stopped")
            computed = _compute(self.stage, decided, self.progress)
        with self._saving:
            if self._stopped:
                raise NotTriedError(f"{self.stage.name} of {shard} was not saved: the run was stopped")
            return _save(self.stage, shard, self.store, computed, self.writer)

    def stop(self) -> None:
        """Begin no further computation or save; returns once none is being saved."""
        self._stopped = True
        with self._saving:
            pass
