"""What the platform costs around the science: one run of many tiny shards, pages and ticks with many partitions.

    python bench/overhead.py [--shards 1000] [--registered 10000]

Prints, for one batch of tiny shards on the `mini` bundle: seconds a shard of one ranged run over all three shard assets
with their checks, and how much of it is computing; then, with many registered shards, the seconds of a sensor tick, of
the partition page's query, of a survey, and of a look at as many files in the inbox. Needs no network; works in a
temporary home.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import dagster as dg

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.arrivals import scan_inbox
from virnuc_dagster.inbox.ledger import Ledger
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.automation.mover import Mover
from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.orchestration.runs import Runner
from virnuc_dagster.stages.batch import add_sequences

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ui"))
from kits.ui import running

RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
ASSETS = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
PAGE = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionKeys assetPartitionStatuses { ... on DefaultPartitionStatuses {
    materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } } } } }"""


def tiny_batch(folder: Path, shards: int, seed: int = 0) -> Path:
    """FASTA with about one shard of two frames a sequence and strand."""
    draw = random.Random(seed)
    codons = ("GCT", "GCC", "GAC", "GAA", "CTG", "ATC", "GTC", "CGC", "GGC", "ACC")
    path = folder / "tiny.fasta"
    path.write_text(
        "".join(f">s{i}\n{''.join(draw.choice(codons) for _ in range(30))}\n" for i in range(shards // 2 + 1))
    )
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--registered", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), shard_size=2, threads=1, automation=False)
        store = LocalStore(settings.store)
        definitions = build_definitions(settings=settings)
        batch, _ = add_sequences(
            store, tiny_batch(Path(folder), options.shards), "tiny", window_length=500, shard_size=2
        )
        with open_instance(settings) as instance:
            keys = Runner(definitions, instance, store, (), print).cut_batch(batch)[: options.shards]
            _ranged_run(definitions, instance, settings, keys)
            _ticks(instance, settings, batch, options.registered)
        with running(settings.home, automation="false") as web:
            began = time.monotonic()
            node = web.query(PAGE, key={"path": ["predictions"]})["assetNodeOrError"]
            print(f"partition page, {len(node['partitionKeys']):,} shards: {time.monotonic() - began:.2f} s")


def _ranged_run(definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, keys: list[str]) -> None:
    job = definitions.resolve_job_def("embed_and_score_shards")
    config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    for what in ("computed", "skipped"):
        began, cpu = time.monotonic(), time.process_time()
        result = job.execute_in_process(
            instance=instance, tags=dict(zip(RANGE, (keys[0], keys[-1]), strict=True)), run_config=config
        )
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        lines = [json.loads(line) for path in settings.logs.glob("*.jsonl") for line in path.read_text().splitlines()]
        computing = sum(
            line.get("seconds", 0) for line in lines if line["event"] == "shard" and line["run"] == result.run_id
        )
        print(
            f"one ranged run, {len(keys):,} shards {what}: {seconds:.0f} s, {seconds / len(keys):.3f} s a shard "
            f"({cpu / len(keys):.3f} s of CPU), {computing / len(keys):.3f} of it computing"
        )


def _ticks(instance: dg.DagsterInstance, settings: Settings, batch: str, registered: int) -> None:
    instance.add_dynamic_partitions("shards", [f"other-00000000__{number:04d}" for number in range(registered)])
    ledger = Ledger(settings.home)
    ledger.begin(batch, "shards", [("a", "b")])
    for name, tick in {
        "tick of batch_progress, one batch": lambda: Mover(instance, ledger, settings).next_steps(ledger.active(1)),
        "tick of scheduled_backfill": lambda: Survey(instance, settings, ledger).requests(lambda _: None),
    }.items():
        began = time.monotonic()
        tick()
        print(f"{name}, {registered:,} more shards registered: {time.monotonic() - began:.3f} s")
    _looks_at_known_files(settings, ledger, registered)
    ledger.finish(batch, "", 3)
    began = time.monotonic()
    Survey(instance, settings, ledger).requests(lambda _: None)
    print(f"survey of the batch: {time.monotonic() - began:.3f} s")


def _looks_at_known_files(settings: Settings, ledger: Ledger, count: int) -> None:
    settings.inbox.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (settings.inbox / f"{number}.fa").touch()
    new = _look(settings, ledger)
    for name, fingerprint in ledger.fingerprints().items():
        ledger.set_file(name, fingerprint, "taken")
    known = median(_look(settings, ledger) for _ in range(7))
    print(f"tick of inbox_arrivals, {count:,} new files: {new:.3f} s; known ones: {known:.3f} s")


def _look(settings: Settings, ledger: Ledger) -> float:
    began = time.monotonic()
    scan_inbox(settings.inbox, ledger, time.time(), settle_seconds=0, limit=20)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
