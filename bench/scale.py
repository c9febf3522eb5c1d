"""What the platform costs around the science once very many shards are registered and done.

    python bench/scale.py [--shards 100000] [--batches 100] [--run 100]

One small batch is really computed with `mini` (`--run` shards of two frames). Its checkpoints, its events and its
report are then copied under other names until `--shards` shards are there, each with all of its records, data files and
events, as if it had been computed here: no encoder is run for them. Printed, before and after: a run's cost,
ticks, the partition page, the list of batches, and the size of the database. Works in a temporary home; 100,000 shards
take some 6 GB of it and a quarter of an hour.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from overhead import PAGE, tiny_batch

from virnuc_dagster.checkpoints import CommitRecord, LocalStore
from virnuc_dagster.cli import main as virnuc
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import scan_inbox
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.automation.mover import Mover
from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.orchestration.runs import Runner
from virnuc_dagster.report import paths
from virnuc_dagster.stages.batch import add_sequences
from virnuc_dagster.stages.keys import shard_key
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS, SEQUENCES
from virnuc_dagster.stages.shards import PredictionStage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ui"))
from kits.ui import running

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

_T = TypeVar("_T")
SHARD_STAGES = (FRAMES, DNABERT_S, ESM2, PREDICTIONS)


def timed(what: str, call: Callable[[], _T]) -> _T:
    """Call, and print the seconds it took."""
    began = time.monotonic()
    result = call()
    print(f"{what}: {time.monotonic() - began:.3f} s", flush=True)
    return result


class Forge:
    """Copies of one computed shard and batch under other names.

    Args:
        settings: Of the home.
        batch: A batch that is complete, with its report; its first shard is the pattern.
    """

    def __init__(self, settings: Settings, batch: str) -> None:
        self.settings, self.batch, self.shard = settings, batch, shard_key(batch, 1)
        self.files = {stage: list(self._read(settings.store / stage / batch, self.shard)) for stage in SHARD_STAGES}
        self.whole = {stage: list(self._read(settings.store / stage / batch, batch)) for stage in (SEQUENCES, BATCH)}

    def _read(self, folder: Path, name: str) -> Iterator[tuple[str, bytes]]:
        for path in folder.glob(f"{name}.*"):
            yield path.name, path.read_bytes()

    def _write(self, stage: str, batch: str, old: str, new: str, files: list[tuple[str, bytes]]) -> None:
        folder = self.settings.store / stage / batch
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files:
            if name.endswith(".done"):
                record = CommitRecord.from_json(data)
                data = dataclasses.replace(record, file=record.file.replace(old, new), previous=()).to_json()
            (folder / name.replace(old, new)).write_bytes(data)

    def store(self, batch: str, shards: list[str]) -> None:
        """All checkpoints of a batch."""
        for stage, files in self.whole.items():
            self._write(stage, batch, self.batch, batch, files)
        for stage, files in self.files.items():
            for shard in shards:
                self._write(stage, batch, self.shard, shard, files)

    def report(self, batch: str, shards: list[str]) -> None:
        """A report that was made from the batch's predictions."""
        folder = shutil.copytree(self.settings.reports / self.batch, self.settings.reports / batch)
        made = json.loads((folder / paths.PROVENANCE).read_bytes())
        facts = next(f for key, f in made["checkpoints"].items() if key.startswith(PREDICTIONS) and self.shard in key)
        pattern = next(key for key in made["checkpoints"] if key.startswith(PREDICTIONS) and self.shard in key)
        made["checkpoints"] = {pattern.replace(self.shard, shard).replace(self.batch, batch): facts for shard in shards}
        (folder / paths.PROVENANCE).write_text(json.dumps(made))

    def events(self, shards: list[str]) -> None:
        """What a run logs of each shard: planned, committed, and once more at the end, for three assets."""
        index = self.settings.dagster_home / "history" / "runs" / "index.db"
        with contextlib.closing(sqlite3.connect(index)) as database, database:
            columns = [row[1] for row in database.execute("pragma table_info(event_logs)") if row[1] != "id"]
            pattern = database.execute(
                f"select {','.join(columns)} from event_logs where partition = ?", (self.shard,)
            ).fetchall()
            assert len(pattern) == 9, f"{len(pattern)} events of {self.shard}"
            marks = ",".join("?" * len(columns))
            database.executemany(
                f"insert into event_logs ({','.join(columns)}) values ({marks})",
                (
                    [value.replace(self.shard, shard) if isinstance(value, str) else value for value in row]
                    for shard in shards
                    for row in pattern
                ),
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--run", type=int, default=100, help="shards that are really computed, twice")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), shard_size=2, threads=1, automation=False)
        with open_instance(settings) as instance:
            batch = computed(settings, instance, options.run, "first")
            before = database_bytes(settings)
            ticks(settings, instance, batch)
            forge(settings, instance, batch, options)
            print(f"database: {before:,} bytes before, {database_bytes(settings):,} after", flush=True)
            computed(settings, instance, options.run, "second")
            ticks(settings, instance, batch)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            began = time.monotonic()
            virnuc(["batches", "list", "--home", folder])
        print(f"virnuc batches list: {time.monotonic() - began:.3f} s", flush=True)
        with running(settings.home, automation="false") as web:
            for visit in ("first", "second", "third"):
                node = timed(f"partition page, {visit} visit", lambda: web.query(PAGE, key={"path": ["predictions"]}))
            node = node["assetNodeOrError"]
            done = node["assetPartitionStatuses"]["materializedPartitions"]
            print(f"  {len(node['partitionKeys']):,} shards registered, {len(done):,} computed")


def computed(settings: Settings, instance: object, shards: int, name: str) -> str:
    """Really compute a batch of tiny shards; its key."""
    store = LocalStore(settings.store)
    source = tiny_batch(settings.home, shards, seed=len(name))
    batch, _ = add_sequences(store, source, name, window_length=500, shard_size=2)
    stage = PredictionStage(store, open_bundle("mini"), ComputeOptions())
    runner = Runner(build_definitions(settings=settings), instance, store, (*stage.inputs, stage), print)  # type: ignore[arg-type]
    began, cpu = time.monotonic(), time.process_time()
    runner.run_batch(batch)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    count = len(store.list(PREDICTIONS, batch))
    print(f"{name} batch, {count:,} shards computed and reported: {seconds / count:.3f} s a shard "
          f"({cpu / count:.3f} s of CPU)", flush=True)  # fmt: skip
    return batch


def forge(settings: Settings, instance: object, batch: str, options: argparse.Namespace) -> None:
    """Copy the batch until all shards are there."""
    began, registering = time.monotonic(), 0.0
    pattern = Forge(settings, batch)
    each = options.shards // options.batches
    for number in range(options.batches):
        key = f"lab{number:05d}-00000000"
        shards = [shard_key(key, index) for index in range(1, each + 1)]
        pattern.store(key, shards)
        pattern.report(key, shards)
        pattern.events(shards)
        start = time.monotonic()
        instance.add_dynamic_partitions("batches", [key])  # type: ignore[attr-defined]
        instance.add_dynamic_partitions("shards", shards)  # type: ignore[attr-defined]
        last = time.monotonic() - start
        registering += last
    print(f"{options.shards:,} shards in {options.batches:,} batches copied in {time.monotonic() - began:.0f} s, "
          f"{registering:.1f} s of it registering partitions, {last:.3f} s for the last batch", flush=True)  # fmt: skip


def ticks(settings: Settings, instance: object, batch: str) -> None:
    """A tick of each sensor and schedule."""
    ledger = Ledger(settings.home)
    ledger.begin(batch, "shards", [("a", "b")])
    timed(
        "tick of inbox_arrivals",
        lambda: scan_inbox(settings.inbox, ledger, time.time(), settle_seconds=0, limit=20),
    )
    timed(
        "tick of batch_progress, one batch",
        lambda: Mover(instance, ledger, settings).next_steps(ledger.active(1)),  # type: ignore[arg-type]
    )
    ledger.finish(batch, "", 3)
    survey = Survey(instance, settings, ledger)  # type: ignore[arg-type]
    found = timed("tick of scheduled_backfill", lambda: survey.requests(print))
    print(f"  {len(found)} runs wanted; {survey.summary()}", flush=True)


def database_bytes(settings: Settings) -> int:
    """Size of everything in the instance's folder."""
    return sum(path.stat().st_size for path in settings.dagster_home.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
