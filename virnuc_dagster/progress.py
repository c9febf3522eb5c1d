"""What long work tells whoever waits for it. The command line draws bars from it; Dagster runs log to their own log."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from virnuc_dagster.checkpoints import Difference


class Progress:
    """A listener to the news of a stage; this base class ignores them.

    A stage calls `start` once, `advance` as frames (or sequences) are done, and `shard_done` or `shard_failed` for each
    shard.
    """

    def start(self, stage: str, shards: int, total: int) -> None:
        """Begin a stage of `shards` shards with `total` frames (0: not known)."""

    def advance(self, stage: str, done: int) -> None:
        """Count `done` more computed frames of the stage."""

    def shard_done(self, stage: str, shard: str, rows: int, *, reused: bool) -> None:
        """Count a committed shard of `rows` frames; `reused` if it already was and nothing was computed."""

    def shard_failed(self, stage: str, shard: str, error: Exception) -> None:
        """Note that a shard failed; the others go on."""

    def shard_stale(self, stage: str, shard: str, reasons: Sequence[Difference]) -> None:
        """Note that a shard's stored result is stale and is computed again."""

    def note(self, text: str) -> None:
        """Tell something worth knowing."""


@dataclass
class StageCount:
    """What one stage came to in a call, also if it took a second run: a shard computed once stays computed."""

    computed: set[str] = field(default_factory=set)
    reused: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class CountingProgress(Progress):
    """Counts the shards of each stage and tells another progress of everything.

    Args:
        told: The other one.
    """

    def __init__(self, told: Progress) -> None:
        self.told = told
        self.stages: dict[str, StageCount] = {}

    def start(self, stage: str, shards: int, total: int) -> None:
        """Begin to count a stage, unless it was begun."""
        self.stages.setdefault(stage, StageCount())
        self.told.start(stage, shards, total)

    def advance(self, stage: str, done: int) -> None:
        """Pass it on."""
        self.told.advance(stage, done)

    def shard_done(self, stage: str, shard: str, rows: int, *, reused: bool) -> None:
        """Count a finished shard."""
        count = self.stages[stage]
        count.failed.discard(shard)
        if reused:
            count.reused |= {shard} - count.computed
        else:
            count.computed.add(shard)
        self.told.shard_done(stage, shard, rows, reused=reused)

    def shard_failed(self, stage: str, shard: str, error: Exception) -> None:
        """Count a failed shard."""
        self.stages[stage].failed.add(shard)
        self.told.shard_failed(stage, shard, error)

    def shard_stale(self, stage: str, shard: str, changed: Sequence[Difference]) -> None:
        """Pass it on."""
        self.told.shard_stale(stage, shard, changed)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.told.note(text)
