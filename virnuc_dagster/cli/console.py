"""What a person sees while work goes on: bars on a terminal, one line a stage elsewhere, all on stderr."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from virnuc_dagster.checkpoints import Difference
from virnuc_dagster.embedding.registry import ENCODERS
from virnuc_dagster.progress import Progress as ProgressBase
from virnuc_dagster.stages.pipeline import PIPELINE

#: What is worked at -> its title, and what is counted.
_SHOWN = {
    **{stage.name: (stage.title, stage.unit) for stage in PIPELINE},
    **{f"train_{encoder.part}": (f"training {encoder.title}", "steps") for encoder in ENCODERS},
    "train_head": ("training the head", "epochs"),
}


class ConsoleProgress(ProgressBase):
    """Progress bars; entered again, it begins anew.

    Args:
        console: Where to draw; bars appear only on a terminal.
        quiet: Draw nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._begin()

    def _begin(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._told: set[tuple[str, ...]] = set()

    def __enter__(self) -> "ConsoleProgress":
        self._begin()
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, stage: str, shards: int, total: int) -> None:
        """Add a bar for the stage."""
        self._began[stage] = time.monotonic()
        title, unit = _SHOWN.get(stage, (stage, "frames"))
        self._tasks[stage] = self._bars.add_task(title, total=total, unit=unit, rate="")

    def advance(self, stage: str, done: int) -> None:
        """Move the stage's bar."""
        task = self._tasks[stage]
        self._bars.advance(task, done)
        seconds = time.monotonic() - self._began[stage]
        completed = self._bars.tasks[self._bars.task_ids.index(task)].completed
        if seconds > 1:
            self._bars.update(task, rate=f"{completed / seconds:,.0f}/s")

    def shard_done(self, stage: str, shard: str, rows: int, *, reused: bool) -> None:
        """Move the bar for a shard of which nothing was computed; others have moved it already."""
        if reused:
            self._bars.advance(self._tasks[stage], rows)

    def shard_failed(self, stage: str, shard: str, error: Exception) -> None:
        """Say which shard failed and why, at once."""
        self.note(f"{stage} of {shard} failed: {getattr(error, 'message', error)}")

    def shard_stale(self, stage: str, shard: str, reasons: Sequence[Difference]) -> None:
        """Say why stored results are computed again: once a stage and set of fields, not once a shard."""
        why = (stage, *(difference.field for difference in reasons))
        if why not in self._told:
            self._told.add(why)
            self.note(f"{stage}: stored results are computed again ({'; '.join(map(str, reasons))})")

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def summary_lines(run: Mapping[str, Any]) -> list[str]:
    """Return a line a stage with shards: what was computed and what was reused, from the content of `run.json`."""
    failed = run["failed_shards"]
    return [
        f"{_SHOWN.get(name, (name, ''))[0]:<22} {computed} computed, {run['reused_shards'][name]} reused"
        + (f", {len(failed[name])} failed" if name in failed else "")
        for name, computed in run["computed_shards"].items()
    ]
