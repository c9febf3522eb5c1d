"""Whether a stored result is the wanted one. Whoever reuses, counts, replaces or refuses stored results asks here.

A result is current if the provenance in its commit record is the one that a result computed now would have. Records are
read, never a tensor: bytes that changed under a right record are found where they are read, at a load or by an audit.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from virnuc_dagster.checkpoints import CheckpointError, CheckpointKey, CommitRecord, Difference, differences
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.records import Records

if TYPE_CHECKING:
    from virnuc_dagster.stages.shards import ShardStage

#: What is known of vectors that another program computed; the rest of the provenance cannot be compared.
IMPORTED = "imported"
_KNOWN_OF_IMPORTED = ("inputs", "model_id")


class State(enum.StrEnum):
    """What a stored result is, compared with the wanted one."""

    MISSING = "missing"  #: nothing is committed
    DAMAGED = "damaged"  #: its record is unreadable, or its data file is not there or has another size
    STALE = "stale"  #: it was made by another method, from other inputs, with another model or precision
    UNKNOWN = "unknown"  #: an input is missing or damaged; made again, it will most likely be the same
    CURRENT = "current"  #: it is the wanted one


@dataclass(frozen=True)
class ShardState:
    """The state of one stored result, and why.

    Attributes:
        state: What it is.
        wanted: The provenance that it must have; empty if an input keeps that from being known.
        record: What is stored; None if it is missing or damaged.
        reasons: Fields of a stale result that differ.
        error: What damaged it; else what is wrong with an input, whatever is stored of the result.
    """

    state: State
    wanted: Mapping[str, Any] = field(default_factory=dict)
    record: CommitRecord | None = None
    reasons: tuple[Difference, ...] = ()
    error: VirnucError | None = None

    @property
    def current(self) -> CommitRecord | None:
        """The stored record if it is the wanted one, else None."""
        return self.record if self.state is State.CURRENT else None

    def or_raise(self) -> "ShardState":
        """Return this state, or raise what must be repaired before the result can be computed."""
        if self.error is not None:
            raise self.error
        return self


class StaleError(VirnucError):
    """An upstream result is not the one this computation needs (fields: `stage`, `shard`)."""


def state_of(stage: "ShardStage", shard: str, records: Records) -> ShardState:
    """Tell the state of a stage's result of a shard: a stale input makes it stale, a missing or damaged one unknown.

    Raises:
        StorageError: The record of the result cannot be read, which says nothing of it.
    """
    key = shard_checkpoint(stage.name, shard)
    try:
        wanted = stage.wanted(shard, records)
    except VirnucError as error:
        found = compare(key, {}, records)
        if found.record is None:
            return replace(found, error=found.error or error)
        state = State.UNKNOWN if isinstance(error, CheckpointError) else State.STALE
        return ShardState(state, record=found.record, error=error)
    return compare(key, wanted, records)


def compare(key: CheckpointKey, wanted: Mapping[str, Any], records: Records) -> ShardState:
    """Tell the state of a result whose wanted provenance is known; otherwise like `state_of`."""
    try:
        record = records.record(key)
    except CheckpointError as error:
        return ShardState(State.DAMAGED, wanted, error=error)
    if record is None:
        return ShardState(State.MISSING, wanted)
    reasons = tuple(stale_reasons(record.provenance, wanted))
    return ShardState(State.STALE if reasons else State.CURRENT, wanted, record, reasons)


def stale_reasons(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """List the fields that make a stored provenance another than the wanted one; empty if the result is current.

    Imported vectors are current for the frames and the encoder id they were imported for.
    """
    if IMPORTED in stored:
        wanted = {name: wanted[name] for name in _KNOWN_OF_IMPORTED if name in wanted}
        stored = {name: stored.get(name) for name in wanted}
    return differences(stored, wanted)
