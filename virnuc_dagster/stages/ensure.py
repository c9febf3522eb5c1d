"""Bringing shards to their wanted state: reuse what is stored with the wanted provenance, compute and save the rest.

Three shards are in work at once: while shard k is computed, one thread prepares the inputs of shard k+1 and another
validates and writes shard k-1. At most one finished shard waits, commits keep the order of the shards, and nothing is
reported before it is committed.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from virnuc_dagster.checkpoints import CheckpointStore, CommitRecord, Difference, NoSpaceError, Payload
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.shards import ShardStage, unwanted


@dataclass(frozen=True)
class Ensured:
    """A shard that is now committed.

    Attributes:
        record: Its record.
        reused: Whether it already was the wanted one.
        changed: Why a stored result was not.
        seconds: Time spent computing it.
        tokens: Tokens an encoder was fed for it; 0 where there is no encoder.
    """

    record: CommitRecord
    reused: bool
    changed: tuple[Difference, ...] = ()
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class _Looked:
    """What a look at a shard gave: the stored record that is the wanted one, or what it takes to compute it."""

    wanted: Mapping[str, Any]
    reusable: CommitRecord | None
    changed: tuple[Difference, ...] = ()
    inputs: Any = None


@dataclass(frozen=True)
class _Computed:
    """A shard that waits to be saved."""

    payload: Payload
    looked: _Looked
    seconds: float
    tokens: int


class NotTriedError(VirnucError):
    """A shard was left out because an earlier one met a full disk: computing it would have been for nothing."""

    exit_code = NoSpaceError.exit_code


def ensure_shards(
    stage: ShardStage,
    shards: Iterable[str],
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
    stage: ShardStage, shards: Iterable[str], store: CheckpointStore, preparer: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[_Looked]]]:
    """Every shard with its look, which began while the shard before was worked on."""
    ahead: tuple[str, Future[_Looked]] | None = None
    for shard in shards:
        following = shard, preparer.submit(_look, stage, shard, store)
        if ahead is not None:
            yield ahead
        ahead = following
    if ahead is not None:
        yield ahead


def _look(stage: ShardStage, shard: str, store: CheckpointStore) -> _Looked:
    """Compare the stored record with the wanted provenance, and prepare the inputs if it must be computed."""
    wanted = stage.wanted(shard)
    stored = store.record(shard_checkpoint(stage.name, shard))
    changed = tuple(unwanted(stored.provenance, wanted)) if stored else ()
    if stored and not changed:
        return _Looked(wanted, stored)
    return _Looked(wanted, None, changed, stage.prepare(shard))


def _begin(
    stage: ShardStage, shard: str, look: Future[_Looked], progress: Progress, *, full: bool
) -> Ensured | _Computed | Exception:
    """Reuse the stored result or compute a new one."""
    try:
        looked = look.result()
        if looked.reusable:
            progress.shard_done(stage.name, shard, looked.reusable.rows, reused=True)
            return Ensured(looked.reusable, True)
        if full:
            raise NotTriedError(f"{stage.name} of {shard} was not tried: no space left", hint="free some space first")
        if looked.changed:
            progress.shard_stale(stage.name, shard, looked.changed)
        began = time.monotonic()
        payload = stage.compute(looked.inputs, progress)
        return _Computed(payload, looked, time.monotonic() - began, stage.tokens)
    except Exception as error:  # whatever it is, the other shards must have their chance
        progress.shard_failed(stage.name, shard, error)
        return error


def _save(
    stage: ShardStage, shard: str, store: CheckpointStore, computed: _Computed, writer: Mapping[str, str]
) -> Ensured:
    """Commit one shard; runs in the saver's thread."""
    looked = computed.looked
    record = store.save(shard_checkpoint(stage.name, shard), computed.payload, looked.wanted, writer)
    return Ensured(record, False, looked.changed, computed.seconds, computed.tokens)


def _settled(stage: ShardStage, shard: str, save: Future[Ensured], progress: Progress) -> Ensured | Exception:
    """Wait for a save and tell of it."""
    try:
        ensured = save.result()
    except Exception as error:
        progress.shard_failed(stage.name, shard, error)
        return error
    progress.shard_done(stage.name, shard, ensured.record.rows, reused=False)
    return ensured
