"""A session: what all work in one home shares, opened once and only when it is needed.

It knows the order in which a store is bound, an instance opened, dead runs cleared and definitions built. A call with
nothing to do imports neither torch nor the definitions, see `orchestration.standing`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from virnuc_dagster.api.destination import Destination, digests_in, run_text, write_results
from virnuc_dagster.api.inputs import Input, Source, as_source
from virnuc_dagster.api.result import BatchResult
from virnuc_dagster.checkpoints import CommitRecord, Level, Store
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.files import write_atomic
from virnuc_dagster.home.origins import note_origin
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.progress import CountingProgress, Progress
from virnuc_dagster.report import paths

if TYPE_CHECKING:
    import torch

    from virnuc_dagster.models.bundle import Bundle
    from virnuc_dagster.orchestration.runs import BatchRun, Runner
    from virnuc_dagster.stages.shards import PredictionStage, ShardStage


class Embeddings(NamedTuple):
    """The embeddings of every frame of a batch.

    Attributes:
        ids: Ids of the N frames.
        vectors: Part of each encoder -> (N, its width) float32, row i of frame i; in the order of `registry.ENCODERS`.
    """

    ids: list[str]
    vectors: "dict[str, torch.Tensor]"


@contextmanager
def open_session(
    settings: Settings | None = None, *, progress: Progress | None = None, level: Level = Level.LOAD
) -> Iterator["Session"]:
    """Open a home for work; at the end its instance is closed, and workers of backend `ray` are ended.

    Args:
        settings: Which home, bundle and device; from the environment and `settings.toml` if None.
        progress: Told of what is done; nothing is printed.
        level: How much of an input checkpoint is checked at load.
    """
    with ExitStack() as opened:
        yield Session(settings or Settings.read(), CountingProgress(progress or Progress()), level, opened)


@dataclass
class Session:
    """One home at work, see `open_session`."""

    settings: Settings
    progress: CountingProgress
    level: Level
    _opened: ExitStack
    _done: dict[str, BatchResult] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        """The home's store, which is bound to it."""
        from virnuc_dagster.home.binding import open_bound_store

        return open_bound_store(self.settings)

    @cached_property
    def bundle(self) -> "Bundle":
        """The model bundle of the settings."""
        from virnuc_dagster.models.bundle import open_bundle

        return open_bundle(self.settings.bundle)

    @cached_property
    def instance(self) -> Any:
        """The home's Dagster instance, without the runs of dead processes."""
        from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance

        instance = self._opened.enter_context(open_instance(self.settings, capture=False))
        clear_dead_runs(instance, self.progress.note)
        return instance

    def check(self) -> None:
        """Find out what would keep an input from being predicted, before one is read.

        Raises:
            VirnucError: Backend, bundle, store or GPU cannot be had.
        """
        from virnuc_dagster.backends import require_backend

        require_backend(self.settings.backend)
        self.bundle.check_fallback()
        _ = self.store
        if self.settings.device.startswith("cuda"):
            _ = self._device

    def add(self, source: Source | Input, *, replace_damaged: bool = False) -> tuple[str, CommitRecord]:
        """Store the sequences of an input.

        Args:
            source: Read once.
            replace_damaged: See `stages.batch.add_sequences`.

        Returns:
            The batch's key, and the record of its sequences.

        Raises:
            InputError: The input cannot be used; nothing is stored.
        """
        source = as_source(source)
        batch, record = self._add(source, replace_damaged=replace_damaged)
        note_origin(self.settings.home, batch, source.facts)
        return batch, record

    def _add(self, source: Source, *, replace_damaged: bool) -> tuple[str, CommitRecord]:
        from virnuc_dagster.stages.batch import add_sequences

        with source.opened() as stream:
            return add_sequences(
                self.store,
                stream,
                source.name,
                window_length=self.bundle.spec.window_length,
                shard_size=self.settings.shard_size,
                replace_damaged=replace_damaged,
                allow_missing_end_mark=self.settings.allow_missing_end_mark,
            )

    def cut(self, batch: str) -> list[str]:
        """Cut a stored batch into frames, register its shards with Dagster, and return their keys."""
        return self._runner.cut_batch(batch)

    def predict(
        self, source: Source | Input, destination: Destination | None = None, *, force_resume: bool = False
    ) -> BatchResult:
        """Bring one input to its report; finished shards are not computed again.

        Args:
            source: The input, read once.
            destination: Where the result files are copied to; they stay in the home's reports if None.
            force_resume: Set damaged checkpoints aside and compute them again.

        Raises:
            VirnucError: There is no report. Shards that failed are no such error but in the result's `errors`.
        """
        began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        source = as_source(source)
        self.check()
        self.progress.stages.clear()
        batch, record = self._add(source, replace_damaged=force_resume)
        self.progress.note(f"{source.name}: {record.rows:,} sequences, batch {batch}")
        folder = report = self.settings.reports / batch
        sealed = digests_in(report / paths.SEAL)
        if destination:
            folder = destination.folder_of(batch, [sealed])
        note_origin(self.settings.home, batch, source.facts)
        if batch in self._done:
            return self._same(batch, source, folder)
        if force_resume:
            self._set_aside_damaged(batch)
        done = self._run(batch)
        run = {
            "batch": batch,
            "inputs": [source.as_json()],
            "started_at": started_at,
            "seconds": round(time.monotonic() - began, 3),
            **self._facts(done),
        }
        if destination:
            destination.folder_of(batch, [sealed, digests_in(report / paths.SEAL)])  # once more: hours may have passed
            write_results(report, folder, run)
        summary = json.loads((folder / paths.SUMMARY).read_bytes())
        errors = tuple(done.errors) if done else ()
        self._done[batch] = BatchResult(source.facts, batch, folder, summary, run, errors)
        return self._done[batch]

    def embed(self, source: Source | Input) -> Embeddings:
        """Bring one input to its embeddings, in the same store as those of `predict`.

        Raises:
            ShardsFailedError: Some shards failed; the others are committed.
        """
        import torch

        from virnuc_dagster.stages.keys import shard_checkpoint

        source = as_source(source)
        batch, _ = self.add(source)
        self.progress.note(f"{source.name}: batch {batch}")
        shards, stages = self._runner.embed_batch(batch), self.stage.inputs
        loaded = [[self.store.load(shard_checkpoint(stage.name, shard)) for shard in shards] for stage in stages]
        ids = [[name for payload in payloads for name in payload["ids"]] for payloads in loaded]
        if any(of != ids[0] for of in ids):
            raise AssertionError(f"{batch}: the embeddings do not hold the same frames")
        vectors = {
            stage.part: torch.cat([torch.empty(0, stage.dim), *(payload["data"] for payload in payloads)])
            for stage, payloads in zip(stages, loaded, strict=True)
        }
        return Embeddings(ids[0], vectors)

    def _same(self, batch: str, source: Source, folder: Path) -> BatchResult:
        """Return the result of a batch that an earlier input had: one folder, which names both inputs."""
        known = self._done[batch]
        first = known.run["inputs"][0]["path"]
        self.progress.note(f"{source.name} holds the sequences of {first}: one batch, with its results in {folder}")
        known.run["inputs"].append(source.as_json())
        if folder != self.settings.reports / batch:
            write_atomic(folder / paths.RUN, run_text(known.run).encode())
        return replace(known, input=source.facts)

    def _set_aside_damaged(self, batch: str) -> None:
        from virnuc_dagster.orchestration.runs import set_aside_damaged

        for key in set_aside_damaged(self.store, batch):
            self.progress.note(f"{key} is damaged: set aside in {self.settings.store}/.quarantine")

    def _run(self, batch: str) -> "BatchRun | None":
        """Bring a batch to its report; None if it is there already, and no run was needed."""
        from virnuc_dagster.orchestration.standing import batch_stands

        if batch_stands(self.instance, self.store, self.stage, batch, self.settings.reports, self.progress):
            return None
        _ = self._fallback
        return self._runner.run_batch(batch)

    def _facts(self, done: "BatchRun | None") -> dict[str, Any]:
        """Gather what `run.json` says of a call, but for its input and time."""
        return {
            "backend": self.settings.backend,
            "device": self._device if done else self._named_device,
            "precision": self.settings.precision,
            "bundle": self.bundle.name,
            "run_ids": done.run_ids if done else {},
            **_shard_counts(self.progress),
        }

    @property
    def _named_device(self) -> str:
        """What is asked for, in full where that needs no import of torch but that of `check`."""
        return self._device if self.settings.device.startswith("cuda") else self.settings.device

    @cached_property
    def _device(self) -> str:
        """What is computed on; with Ray the devices are those of the workers. Takes the import of torch."""
        from virnuc_dagster.embedding.device import resolve_device

        local = self.settings.backend == "local"
        return str(resolve_device(self.settings.device)) if local else self.settings.device

    @cached_property
    def stage(self) -> "PredictionStage":
        """The last of the shard stages; `inputs` are the embeddings."""
        from virnuc_dagster.stages.shards import PredictionStage

        return PredictionStage(self.store, self.bundle, self.settings.options(self.level))

    @cached_property
    def _fallback(self) -> object:
        """Used last: if it cannot be used, that is said before hours of work."""
        return self.bundle.load_fallback()

    @cached_property
    def _runner(self) -> "Runner":
        """Runs the assets of every batch of the session."""
        from virnuc_dagster.backends.ray_pool import Pools
        from virnuc_dagster.definitions import build_definitions
        from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
        from virnuc_dagster.orchestration.resources import Backends
        from virnuc_dagster.orchestration.runs import Runner

        pools = self._opened.enter_context(closing(Pools(kept=True)))
        resources = {
            "progress": self.progress,
            "checkpoints": CheckpointIOManager(root=str(self.settings.store), validation=self.level.value),
            "backends": Backends(pools=pools, ray_address=self.settings.ray_address),
        }
        definitions = build_definitions(settings=self.settings, resources=resources)
        stages: list[ShardStage] = [*self.stage.inputs, self.stage]
        return Runner(definitions, self.instance, self.store, stages, self.progress.note)


def _shard_counts(progress: CountingProgress) -> dict[str, Any]:
    """Shards by what became of them, then by stage; stages without shards are left out."""
    stages = {stage: c for stage, c in progress.stages.items() if c.computed or c.reused or c.failed}
    return {
        "computed_shards": {stage: len(count.computed) for stage, count in stages.items()},
        "reused_shards": {stage: len(count.reused) for stage, count in stages.items()},
        "failed_shards": {stage: sorted(count.failed) for stage, count in stages.items() if count.failed},
    }


def failed(source: Source, error: VirnucError) -> BatchResult:
    """Return what a call hands back of an input without a report."""
    return BatchResult(source.facts, errors=(error,))
