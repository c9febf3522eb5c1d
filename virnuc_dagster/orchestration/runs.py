"""Running the assets of one batch in this process: what `virnuc predict` does, step by step.

Each step is an ordinary Dagster run of the same assets that the UI shows, in the same instance. An asset whose shards
fail does not stop what is downstream of the others.
"""

import asyncio
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import dagster as dg

from virnuc_dagster.checkpoints import CheckpointStore
from virnuc_dagster.errors import ShardsFailedError, VirnucError
from virnuc_dagster.home.written_by import process_tags
from virnuc_dagster.orchestration.assets import SHARD_ASSETS, batch_report, sequence_batch
from virnuc_dagster.orchestration.assets.embeddings import GPU_POOL
from virnuc_dagster.orchestration.instance import clear_dead_runs, slot_holders
from virnuc_dagster.orchestration.partitions import batches
from virnuc_dagster.orchestration.private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    make_new_run_id,
)
from virnuc_dagster.signals import handlers_kept
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, COMPUTED
from virnuc_dagster.stages.shards import ShardStage
from virnuc_dagster.stages.space import check_space
from virnuc_dagster.upkeep.audit import read_stage, set_aside


@dataclass
class BatchRun:
    """What running a batch came to: run ids by what they did, and the errors of shards that failed."""

    run_ids: dict[str, str] = field(default_factory=dict)
    errors: list[VirnucError] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """Runs assets in this process.

    Attributes:
        definitions: The assets with the resources of this call.
        instance: The Dagster instance that records the runs.
        store: The checkpoint store that the assets use.
        stages: What is computed of shards, one after the other.
        note: Told what the user should know.
    """

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    store: CheckpointStore
    stages: Sequence[ShardStage]
    note: Callable[[str], None]

    @property
    def _assets(self) -> list[dg.AssetsDefinition]:
        return [SHARD_ASSETS[stage.name] for stage in self.stages]

    def run_batch(self, batch: str) -> BatchRun:
        """Bring a batch from stored sequences to its report; finished shards are not computed again.

        Args:
            batch: Key of a batch whose sequences are stored.

        Returns:
            Run ids and the errors of failed shards (the report is then incomplete).

        Raises:
            NoSpaceError: The results would not fit; no shard was computed.
            VirnucError: The batch or its report could not be made at all.
        """
        clear_dead_runs(self.instance, self.note)
        done = BatchRun()
        keys = self.cut_batch(batch, done)
        if keys:
            check_space(self.store, self.stages, keys, self.note)
            self._run_shards(_range_tags(keys), done)
        done.run_ids["report"] = self._run([batch_report], {PARTITION_NAME_TAG: batch})
        return done

    def embed_batch(self, batch: str) -> list[str]:
        """Bring a batch to its embeddings, without predictions or report.

        Returns:
            Keys of its shards, in order; none for a batch without open frames.

        Raises:
            NoSpaceError: The results would not fit; no shard was computed.
            ShardsFailedError: Some shards failed; the others are committed.
        """
        clear_dead_runs(self.instance, self.note)
        keys = self.cut_batch(batch)
        if keys:
            check_space(self.store, self.stages, keys, self.note)
            self._wait_for_slot()
            self._run(self._assets, _range_tags(keys))
        return keys

    def cut_batch(self, batch: str, done: BatchRun | None = None) -> list[str]:
        """Register a batch whose sequences are stored, cut it into frames, and return the keys of its shards."""
        if not self.instance.has_dynamic_partition(str(batches.name), batch):
            self.instance.add_dynamic_partitions(str(batches.name), [batch])
        run_id = self._run([sequence_batch], {PARTITION_NAME_TAG: batch})
        if done is not None:
            done.run_ids["batch"] = run_id
        return list(self.store.load(batch_checkpoint(BATCH, batch))["shards"])  # one range: cutting sees to it

    def _run_shards(self, tags: dict[str, str], done: BatchRun) -> None:
        """One run for all stages; if shards fail in it, a run for each stage.

        So failed shards are tried once more, and what is downstream of the good ones is computed all the same.
        """
        self._wait_for_slot()
        try:
            done.run_ids["shards"] = self._run(self._assets, tags)
            return
        except ShardsFailedError as error:
            self.note(f"{error.message}\ngoing on with the other shards")
        for asset in self._assets:
            self._wait_for_slot()
            try:
                done.run_ids[asset.key.path[-1]] = self._run([asset], tags)
            except ShardsFailedError as error:
                done.errors.append(_of_inputs(error, done.errors))

    def _wait_for_slot(self) -> None:
        """Wait, interruptibly, until the pool has a free slot; say who holds it."""
        told: list[str] = []
        while holders := slot_holders(self.instance, GPU_POOL):
            if holders != told:
                self.note(f"waiting for pool `{GPU_POOL}`, held by run {', '.join(h[:8] for h in holders)}")
                told = holders
            time.sleep(0.5)
            clear_dead_runs(self.instance, self.note)

    def _run(self, assets: list[dg.AssetsDefinition], tags: dict[str, str]) -> str:
        """Run assets of one partition dimension; returns the run id, raises our own error behind a failure."""
        keys = [asset.key for asset in assets]
        job = self.definitions.resolve_implicit_job_def_def_for_assets(keys)
        assert job is not None
        # No asset checks: saving has just checked every byte, and a person waits.
        job = job.get_subset(asset_selection=set(keys), asset_check_selection=set())
        run_id = make_new_run_id()
        try:
            with _as_a_guest():
                result = job.execute_in_process(
                    instance=self.instance,
                    run_id=run_id,
                    tags=tags | process_tags(run_id),
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                )
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
        except Exception as error:
            if cause := find_cause(error):
                raise cause from error
            raise
        return result.run_id


@contextmanager
def _as_a_guest() -> Iterator[None]:
    """Leave the process as it was: Dagster replaces handlers of signals, and drops a coroutine in a notebook's loop."""
    with ExitStack() as stack:
        stack.enter_context(handlers_kept())
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "coroutine 'BaseEventLoop.shutdown_asyncgens'", RuntimeWarning)
        yield


def _range_tags(keys: Sequence[str]) -> dict[str, str]:
    return {ASSET_PARTITION_RANGE_START_TAG: keys[0], ASSET_PARTITION_RANGE_END_TAG: keys[-1]}


def _of_inputs(error: ShardsFailedError, before: Sequence[VirnucError]) -> ShardsFailedError:
    """An error of a stage, said in other words if its shards only lack inputs whose own failure was told of before."""
    failed = error.fields["failed"]
    if not before or not failed.keys() <= {key for earlier in before for key in earlier.fields["failed"]}:
        return error
    names = ", ".join(list(failed)[:10]) + (", …" if len(failed) > 10 else "")
    told = ShardsFailedError(
        f"predictions: {len(failed)} shards have none, because their embedding failed: {names}",
        hint="the error above says why the embedding failed; with it, the predictions follow",
        failed=failed,
    )
    told.exit_code = error.exit_code  # type: ignore[misc]
    return told


def set_aside_damaged(store: CheckpointStore, batch: str) -> list[str]:
    """Quarantine every damaged checkpoint of a batch, so that it counts as missing and is computed again.

    The stored sequences are left alone: they are not computed but read, see `stages.batch.add_sequences`.

    Returns:
        The quarantined keys.
    """
    damaged = {
        key: error.reason
        for stage in COMPUTED
        for key, _, error in read_stage(store, stage, batch)
        if error is not None
    }
    return [str(key) for key in set_aside(store, damaged)]


def find_cause(error: BaseException | None) -> VirnucError | None:
    """The first of our own errors behind an error that Dagster raised, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, VirnucError):
            return error
        seen.add(id(error))
        error = getattr(error, "user_exception", None) or error.__cause__ or error.__context__
    return None
