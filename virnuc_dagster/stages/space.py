"""Is there room for what a run is about to compute? Asked before the work, answered from frame counts and widths."""

from collections.abc import Callable, Iterable, Sequence

from virnuc_dagster.checkpoints import CheckpointStore, NoSpaceError
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.shards import ShardStage
from virnuc_dagster.stages.staleness import State, state_of

#: Bytes a row takes besides its numbers: its id and what pickle and ZIP add. Measured: 40 to 80.
ID_BYTES = 100
NUMBER_BYTES = 4
_WARN_SHARE = 0.8


def bytes_needed(store: CheckpointStore, stages: Sequence[ShardStage], shards: Iterable[str]) -> int:
    """Bytes that the results of these shards will take, for stages whose stored result is not current.

    Args:
        store: Where frames and results are.
        stages: What is to be computed.
        shards: Shard keys; those whose frames are not there count as nothing.

    Returns:
        Rows x (4 x dim + about 100), summed. A result that is replaced keeps its old generation, so it counts in full.
    """
    needed, records = 0, RecordCache(store)
    for shard in shards:
        try:
            frames = records.record(shard_checkpoint(FRAMES, shard))
            due = [stage for stage in stages if state_of(stage, shard, records).state is not State.CURRENT]
        except VirnucError:
            continue  # the stage itself says what is wrong
        rows = frames.rows if frames else 0
        needed += sum(rows * (stage.dim * NUMBER_BYTES + ID_BYTES) for stage in due)
    return needed


def check_space(
    store: CheckpointStore, stages: Sequence[ShardStage], shards: Sequence[str], note: Callable[[str], None]
) -> None:
    """Stop before work whose results cannot be saved; warn if they only just can.

    Args:
        store: Where the results go.
        stages: What is to be computed.
        shards: Shard keys.
        note: Told of a close call.

    Raises:
        NoSpaceError: Less is free than is needed (fields `bytes_needed`, `bytes_free`).
    """
    free = store.free_bytes()
    if free is None:
        return
    needed = bytes_needed(store, stages, shards)
    if needed > free:
        raise NoSpaceError(
            f"the results of {len(shards):,} shards need about {needed:,} bytes, {free:,} are free",
            hint="free some space (`virnuc checkpoints sweep` says what can go) or choose another --home; "
            "what is committed is kept",
            bytes_needed=needed,
            bytes_free=free,
        )
    if needed > free * _WARN_SHARE:
        note(f"space is getting short: the results need about {needed:,} of {free:,} free bytes")
