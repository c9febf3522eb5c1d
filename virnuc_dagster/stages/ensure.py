"""Bringing shards to their wanted state: reuse what is stored with the wanted provenance, compute and save the rest.

Three shards are in work at once: while shard k is computed, one thread prepares the inputs of shard k+1 and another
validates and writes shard k-1. At most one finished shard waits, commits keep the order of the shards, and nothing is
reported before it is committed.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from virnuc_dagster.checkpoints import CheckpointStore, CommitRecord, Difference, NoSpaceError, Payload
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.records import RecordMemory, Records
from virnuc_dagster.stages.shards import ShardStage, unwanted

#: Shards whose records are read together; a look at a shard that is reused may be as old as their work takes.
_LOOKS_AHEAD = 256


@dataclass(frozen=True)
class Ensured:
    """A shard that is now committed.

    Attributes:
        record: Its record.
        reused: Whether it already was the wanted one.
        changed: Why a stored result was not.
        seconds: Time spent computing it.
        tokens: Tokens an encoder was fed for it; 0 where there is no encoder.
        facts: How it was computed, where that differs from shard to shard, such as the token budget in force.
    """

    record: CommitRecord
    reused: bool
    changed: tuple[Difference, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Looked:
    """What a look at a shard gave: the stored record that is the wanted one, or what it takes to compute it."""

    wanted: Mapping[str, Any]
    reusable: CommitRecord | None
    changed: tuple[Difference, ...] = ()
    inputs: Any = None


@dataclass(frozen=True)
class _Computed:
    """A shard that waits to be saved."""

    payload: Payload
    looked: Looked
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
) -> Iterator[tuple[str, Ensured | Exception]]:
    """Reuse or compute shard after shard; a shard that fails does not stop the others.

    Args:
        stage: What to compute.
        shards: Shard keys.
        store: Where results are kept.
        progress: Told of every frame, of each shard that is committed or failed, and why a stored one was not wanted.
        writer: Who writes, for the records.

    Yields:
        Every shard once, in order: `Ensured` after its commit, or the error that kept it from being committed. Once
        the disk is full, the shards that would have to be computed are not tried (`NotTriedError`).
    """
    with ThreadPoolExecutor(1, "prepare") as preparer, ThreadPoolExecutor(1, "save") as saver:
        waiting: tuple[str, Future[Ensured]] | None = None
        full = False
        for shard, look in _one_ahead(stage, shards, store, preparer):
            begun = _begin(stage, shard, look, progress, full=full)
            if waiting is not None:
                outcome = _settled(stage, *waiting, progress)
                full = full or isinstance(outcome, NoSpaceError)
                yield waiting[0], outcome
                waiting = None
            if isinstance(begun, _Computed):
                waiting = shard, saver.submit(_save, stage, shard, store, begun, writer)
            else:
                yield shard, begun
        if waiting is not None:
            yield waiting[0], _settled(stage, *waiting, progress)


def _one_ahead(
    stage: ShardStage, shards: Sequence[str], store: CheckpointStore, preparer: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[Looked]]]:
    """Every shard with its look, which began while the shard before was worked on."""
    ahead: tuple[str, Future[Looked]] | None = None
    for shard, known in zip(shards, reusable(stage, shards, store), strict=True):
        following = shard, preparer.submit(_look, stage, shard, store, known)
        if ahead is not None:
            yield ahead
        ahead = following
    if ahead is not None:
        yield ahead


def look(stage: ShardStage, shard: str, records: Records) -> Looked:
    """Compare the stored record with the wanted provenance; raises what keeps the shard from being computed."""
    wanted = stage.wanted(shard, records)
    stored = records.record(shard_checkpoint(stage.name, shard))
    changed = tuple(unwanted(stored.provenance, wanted)) if stored else ()
    return Looked(wanted, stored if stored and not changed else None, changed)


def reusable(stage: ShardStage, shards: Sequence[str], store: CheckpointStore) -> Iterator[Looked | None]:
    """Each shard's look if its stored result is the wanted one, else None; on an object store many looks at a time.

    What is not the wanted one yet may be when its turn comes, for another process may work on the same shards.
    """
    for first in range(0, len(shards), _LOOKS_AHEAD):
        some = shards[first : first + _LOOKS_AHEAD]
        keys = (key for shard in some for key in (*stage.reads(shard), shard_checkpoint(stage.name, shard)))
        records = RecordMemory(store)
        with contextlib.suppress(VirnucError):  # what keeps a shard from being computed is said when its turn comes
            records.fetch(keys)
        for shard in some:
            looked = None
            with contextlib.suppress(VirnucError):
                looked = look(stage, shard, records)
            yield looked if looked and looked.reusable else None


def _look(stage: ShardStage, shard: str, store: CheckpointStore, known: Looked | None = None) -> Looked:
    """Look, unless the shard is known to be reusable; prepare the inputs if it must be computed."""
    looked = known or look(stage, shard, store)
    return looked if looked.reusable else replace(looked, inputs=stage.prepare(shard))


def _begin(
    stage: ShardStage, shard: str, look: Future[Looked], progress: Progress, *, full: bool
) -> Ensured | _Computed | Exception:
    """Reuse the stored result or compute a new one."""
    try:
        looked = look.result()
        if looked.reusable:
            progress.shard_done(stage.name, shard, looked.reusable.rows, reused=True)
            return Ensured(looked.reusable, True)
        if full:
            raise not_tried(stage, shard)
        if looked.changed:
            progress.shard_stale(stage.name, shard, looked.changed)
        return _compute(stage, looked, progress)
    except Exception as error:  # whatever it is, the other shards must have their chance
        progress.shard_failed(stage.name, shard, error)
        return error


def not_tried(stage: ShardStage, shard: str) -> NotTriedError:
    """The error of a shard that is left out because the disk is full."""
    return NotTriedError(f"{stage.name} of {shard} was not tried: no space left", hint="free some space first")


def _compute(stage: ShardStage, looked: Looked, progress: Progress) -> _Computed:
    began = time.monotonic()
    payload = stage.compute(looked.inputs, progress)
    facts = {"token_budget": stage.token_budget} if stage.token_budget else {}
    return _Computed(payload, looked, time.monotonic() - began, stage.tokens, facts)


def _save(
    stage: ShardStage, shard: str, store: CheckpointStore, computed: _Computed, writer: Mapping[str, str]
) -> Ensured:
    """Commit one shard; runs in the saver's thread."""
    looked = computed.looked
    record = store.save(shard_checkpoint(stage.name, shard), computed.payload, looked.wanted, writer)
    return Ensured(record, False, looked.changed, computed.seconds, computed.tokens, computed.facts)


def _settled(stage: ShardStage, shard: str, save: Future[Ensured], progress: Progress) -> Ensured | Exception:
    """Wait for a save and tell of it."""
    try:
        ensured = save.result()
    except Exception as error:
        progress.shard_failed(stage.name, shard, error)
        return error
    progress.shard_done(stage.name, shard, ensured.record.rows, reused=False)
    return ensured


class ShardWorker:
    """Brings single shards to their wanted state, for a pool that hands them out one by one.

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

    def ensure(self, shard: str) -> Ensured:
        """Reuse or compute a shard; it is committed when this returns.

        Raises:
            Exception: Whatever kept it from being committed.
        """
        with self._preparing:
            looked = _look(self.stage, shard, self.store)
        if looked.reusable:
            return Ensured(looked.reusable, True)
        with self._computing:
            if self._stopped:
                raise NotTriedError(f"{self.stage.name} of {shard} was not tried: the run was stopped")
            computed = _compute(self.stage, looked, self.progress)
        with self._saving:
            if self._stopped:
                raise NotTriedError(f"{self.stage.name} of {shard} was not saved: the run was stopped")
            return _save(self.stage, shard, self.store, computed, self.writer)

    def stop(self) -> None:
        """Begin no further computation or save; returns once none is being saved."""
        self._stopped = True
        with self._saving:
            pass
