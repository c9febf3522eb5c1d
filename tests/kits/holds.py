"""Programs that stand still at a place that a test chose, so that the test need not be faster than they are."""

import time
from pathlib import Path

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.stages.shards import EmbeddingStage, PredictionStage

GO = "go"


def hold(stage: str, count: str, folder: str) -> None:
    """From now on this process waits before more of a stage, once so many of its shards are committed.

    Args:
        stage: `frames` is held before a save, any other before a computation, which is the main thread's: signals come.
        count: How many; at most one more is on its way then.
        folder: A file `go` in it ends the wait.
    """

    go = Path(folder) / GO

    def wait(store) -> None:
        if not go.exists() and len(store.list(stage)) >= int(count):
            while not go.exists():
                time.sleep(0.01)

    if stage == "frames":
        save = LocalStore.save

        def held_save(self, key, *arguments, **named):
            if key.stage == stage:
                wait(self)
            return save(self, key, *arguments, **named)

        LocalStore.save = held_save
        return
    for kind in (EmbeddingStage, PredictionStage):

        def held_compute(self, *arguments, compute=kind.compute):
            if self.name == stage:
                wait(self.store)
            return compute(self, *arguments)

        kind.compute = held_compute
