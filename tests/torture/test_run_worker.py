"""T14: the process in which Dagster runs a range of shards is killed again and again; the batch is finished anyway.

The runs are launched in a running web UI, queued by the daemon and executed in processes of their own. What a kill of
`virnuc predict` does is in tests/pipeline/test_interruption.py.
"""

import os
import random
import signal
import time
from contextlib import contextmanager
from importlib.resources import files

import psutil
import pytest
from kits.pipeline import DEMO, SHARD_SIZE, SHARDS, Home
from kits.ui import running
from kits.waiting import HANG_SECONDS, wait_until

from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.written_by import PID_TAG as PROCESS_TAG
from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance
from virnuc_dagster.report import paths

STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def records(home: Home) -> dict[str, str]:
    return {f"{stage}/{name}": text for stage in STAGES for name, text in home.records(stage).items()}


def run_worker(home: Home, run_id: str, web) -> psutil.Process:
    """The process that executes a run, by the tags it gives its run."""
    with instance_of(home) as instance:
        return psutil.Process(int(wait_until(lambda: instance.get_run_by_id(run_id).tags.get(PROCESS_TAG))))


@contextmanager
def instance_of(home: Home):
    with open_instance(Settings(home=home.root / "home")) as instance:
        yield instance


@pytest.fixture
def unbroken(tmp_path) -> dict[str, bytes]:
    call = Home(tmp_path / "unbroken").predict()
    assert call.code == 0, call.err
    return call.files()


def test_killed_run_workers(tmp_path, unbroken, full, ledger):
    home = Home(tmp_path / "killed")
    instance = home.root / "home" / "dagster"
    instance.mkdir(parents=True)
    # The daemon would run a killed run again by itself; here it is this test that does, when it wants to.
    text = files("virnuc_dagster").joinpath("instance.yaml").read_text()
    (instance / "dagster.yaml").write_text(
        text.replace("run_retries:\n  enabled: true", "run_retries:\n  enabled: false")
    )
    where = ["--home", str(home.root / "home"), "--shard-size", SHARD_SIZE]
    assert main(["batches", "add", str(DEMO), *where]) == 0
    shards = sorted(name.split(".")[0] for name in home.records("frames"))
    assert len(shards) == SHARDS
    tags = dict(zip(RANGE, (shards[0], shards[-1]), strict=True))
    rounds = 40 if full else 1
    kills = 0
    with running(home.root / "home") as web:
        for turn in range(rounds):
            for path in (
                []
                if turn == 0
                else sorted((home.store).glob("*_embeddings/*/*")) + sorted(home.store.glob("predictions/*/*"))
            ):
                path.unlink()
            for goal in sorted(random.Random(turn).sample(range(3 * SHARDS - 1), 5 if full else 2)):
                before = records(home)
                run_id = web.launch(list(STAGES), tags)
                worker = run_worker(home, run_id, web)
                while len(records(home)) <= goal and worker.is_running():
                    time.sleep(0.002)
                os.kill(worker.pid, signal.SIGKILL)
                worker.wait(HANG_SECONDS)
                kills += 1
                kept = records(home)
                assert len(kept) > goal
                assert {name: kept[name] for name in before} == before, "a finished shard was computed again"
                with instance_of(home) as instance:
                    clear_dead_runs(instance, print)
                assert web.run_status(run_id) == "FAILURE"
            before = records(home)
            assert web.end_of_run(web.launch(list(STAGES), tags)) == "SUCCESS"
            after = records(home)
            assert len(after) == 3 * SHARDS > len(before)
            assert {name: after[name] for name in before} == before
            batch = shards[0].rsplit("__", 1)[0]
            assert web.end_of_run(web.launch(["batch_report"], {"dagster/partition": batch})) == "SUCCESS"
            report = home.root / "home" / "reports" / batch
            assert {name: (report / name).read_bytes() for name in paths.REPRODUCIBLE} == unbroken
    ledger("T14", "SIGKILL of a Dagster run worker, then again", events=kills, whole=kills)
