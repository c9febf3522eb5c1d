"""What long work tells whoever waits for it. The command line draws bars from it; Dagster runs log to their own log."""

from collections.abc import Sequence

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
