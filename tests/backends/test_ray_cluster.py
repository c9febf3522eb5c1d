"""Backend `ray` on a cluster of two nodes, with raylets of their own: nodes and workers die, disks fill, data is bad.

Whatever happens, each shard is committed and announced once, and the report is that of backend `local`, byte for byte.
"""

import errno
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kits import ray_cluster as ray_kit
from kits.damage import flip_a_bit
from kits.pipeline import DEMO
from kits.ray_cluster import NODE, Kit, KitWorker, kill_node
from kits.waiting import wait_until

from virnuc_dagster.backends import BackendError, local, ray_pool
from virnuc_dagster.backends.ray_pool import ATTEMPTS_MAX, RayPool, WorkerLostError
from virnuc_dagster.checkpoints import CheckpointDamagedError, LocalStore, NoSpaceError
from virnuc_dagster.cli import main
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.progress import Progress
from virnuc_dagster.report import paths
from virnuc_dagster.stages.batch import add_sequences, build_batch
from virnuc_dagster.stages.ensure import NotTriedError, ShardResult
from virnuc_dagster.stages.pipeline import FRAMES, PREDICTIONS
from virnuc_dagster.stages.shards import EmbeddingStage

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

STAGES = (DNABERT_S, ESM2, PREDICTIONS)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="module")
def cluster(kit):
    with ray_kit.two_nodes(kit.folder) as cluster:
        yield cluster


@pytest.fixture
def two_nodes(cluster, kit, monkeypatch):
    """Both: what the test before has lost is replaced."""
    kit.reset()
    if not cluster.worker_nodes:
        cluster.add_node(**NODE)
    monkeypatch.setattr(ray_pool, "Worker", KitWorker)
    return cluster


def predict(home: Path, *arguments: str) -> int:
    return main(
        ["predict", str(DEMO), "--home", str(home), "--output", str(home / "out"), "--threads", "1", *arguments]
    )


def result_files(home: Path) -> dict[str, bytes]:
    return {name: (home / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}


def announced(home: Path, stage: str) -> dict[str, list[dg.AssetMaterialization]]:
    """Materializations of each shard in the event log, oldest first."""
    found: dict[str, list] = {}
    with open_instance(Settings(home=home)) as instance:
        for record in instance.fetch_materializations(dg.AssetKey(stage), limit=1_000, ascending=True).records:
            found.setdefault(record.partition_key, []).append(record.asset_materialization)
    return found


class Murder(threading.Thread):
    """Kills a worker process in the first stage, and in the second a raylet with its processes.

    Waits as long as it takes: how fast the machine is says nothing. `over`, set at the run's end, ends the waiting too.
    """

    def __init__(self, cluster: Any, kit: Kit) -> None:
        super().__init__(daemon=True)
        self.cluster, self.kit, self.over = cluster, kit, threading.Event()
        self.nodes_before_kill: set[str] = set()

    def wait_for(self, reached: Callable[[], bool]) -> None:
        wait_until(lambda: reached() or self.over.is_set())

    def run(self) -> None:
        kit = self.kit
        self.wait_for(lambda: len(kit.processes(DNABERT_S)) == 2)  # both, however late one of them has started
        kit.order("hold")
        self.wait_for(lambda: len(kit.computed(DNABERT_S)) >= 8)
        kit.order("hold", "all")
        os.kill(kit.computed(DNABERT_S)[-1].process, signal.SIGKILL)
        self.wait_for(lambda: len(kit.processes(DNABERT_S)) == 3)  # until Ray has restarted it
        kit.order("hold", ESM2)
        self.wait_for(lambda: len(kit.nodes(ESM2)) == 2)
        kit.order("hold")
        self.wait_for(lambda: len(kit.computed(ESM2)) >= 12)
        self.nodes_before_kill = kit.nodes(ESM2)
        (other,) = self.cluster.worker_nodes
        kill_node(other)
        self.wait_for(lambda: len(kit.computed(ESM2)) >= 20)
        kit.order("slow")


def test_a_worker_and_then_a_node_are_killed(two_nodes, kit, tmp_path, monkeypatch):
    """Of 2 nodes with a worker each: in the first stage a worker process, in the second a raylet with its processes."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert predict(tmp_path / "local", "--shard-size", "3", "--quiet") == 0
    kit.order("slow", "all")
    kit.order("hold", "all")
    murder = Murder(two_nodes, kit)
    murder.start()
    code = predict(tmp_path / "ray", "--shard-size", "3", "--backend", "ray", "--quiet")
    murder.over.set()
    murder.join()
    (lost,) = list(two_nodes.worker_nodes)
    two_nodes.remove_node(lost, allow_graceful=False)

    assert code == 0
    assert len(murder.nodes_before_kill) == 2
    assert result_files(tmp_path / "ray") == result_files(tmp_path / "local")
    store = LocalStore(tmp_path / "ray" / "store")
    for stage in STAGES:
        shards = [key.shard for key in store.list(FRAMES)]
        assert len(shards) >= 40
        assert [key.shard for key in store.list(stage)] == shards
        events, as_local = announced(tmp_path / "ray", stage), announced(tmp_path / "local", stage)
        assert {shard: len(found) for shard, found in events.items()} == {s: len(f) for s, f in as_local.items()}
        assert not any(found[0].metadata["reused"].value for found in events.values())
        times = Counter(row.shard for row in kit.computed(stage))
        assert times.keys() == set(shards)
        repeated = [shard for shard, count in times.items() if count > 1]
        assert max(times.values()) <= 2
        # At most what each dead worker had at hand, and of that one computation that was not yet committed.
        assert len(repeated) <= (0 if stage == PREDICTIONS else 2), repeated
        assert {found[0].metadata["device"].value for found in events.values()} == {"cpu"}
    # Computations, not announcements: the killed process may have lost the only shard that it had begun.
    assert len(kit.processes(DNABERT_S)) == 3, "two from the start, and the one that Ray restarted"
    assert len(kit.nodes(DNABERT_S)) == 2


def test_a_damaged_shard_ends_the_run_as_it_does_without_ray(two_nodes, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert predict(tmp_path, "--shard-size", "40", "--quiet") == 0
    (damaged,) = (tmp_path / "store" / FRAMES).glob("*/*__0002.*.pt")
    flip_a_bit(damaged)
    ends = []
    for backend in ("local", "ray"):
        for stage in STAGES:
            shutil.rmtree(tmp_path / "store" / stage)
        capfd.readouterr()
        code = predict(tmp_path, "--shard-size", "40", "--quiet", "--backend", backend, "--workers", "1")
        said = [line for line in capfd.readouterr().err.splitlines() if "(raylet)" not in line]
        ends.append((code, said, result_files(tmp_path)))

    assert ends[0] == ends[1]
    assert ends[1][0] == CheckpointDamagedError.exit_code
    assert any("digest differs" in line for line in ends[1][1])


@pytest.fixture(scope="module")
def framed(tmp_path_factory) -> Path:
    """A store that holds the frames of the demo, and nothing more."""
    store = LocalStore(tmp_path_factory.mktemp("framed") / "store")
    window_length = open_bundle("mini").spec.window_length
    batch, _ = add_sequences(store, DEMO, "demo", window_length=window_length, shard_size=10)
    build_batch(store, batch, Progress(), {})
    return store.root


@pytest.fixture
def case(framed, tmp_path, two_nodes):
    """A store of its own with frames, its shards, the stage ESM-2 on it, and a pool of two workers."""
    shutil.copytree(framed, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    options = ComputeOptions(device="cpu", threads=1)
    pool = RayPool("", options)
    yield (
        store,
        [key.shard for key in store.list(FRAMES)],
        EmbeddingStage(ESM2, store, open_bundle("mini"), options),
        pool,
    )
    pool.close()


class Told(Progress):
    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def shard_done(self, stage, shard, rows, *, reused):
        self.rows.append(("done", shard, reused))

    def shard_failed(self, stage, shard, error):
        self.rows.append(("failed", shard, error))


def test_errors_travel_as_they_are(case):
    store, shards, stage, pool = case
    (damaged,) = store.root.glob(f"{FRAMES}/*/{shards[1]}.*.pt")
    flip_a_bit(damaged)
    told = Told()

    outcomes = dict(pool(stage, shards[:4], store, told, {"run_id": "r"}))

    (expected,) = [error for _, error in local(stage, shards[1:2], store, Progress(), {})]
    found = outcomes[shards[1]]
    assert type(found) is type(expected) is CheckpointDamagedError
    assert (str(found), found.fields, found.exit_code) == (str(expected), expected.fields, 3)
    assert all(isinstance(outcomes[shard], ShardResult) for shard in (shards[0], *shards[2:4]))
    assert ("failed", shards[1], found) in told.rows
    assert outcomes[shards[0]].record.writer["run_id"] == "r"
    again = dict(pool(stage, [shards[0], *shards[2:4]], store, Told(), {"run_id": "s"}))
    assert all(outcome.reused for outcome in again.values())


def test_nothing_more_is_computed_once_the_disk_is_full(case, kit):
    store, shards, stage, pool = case
    dict(pool(stage, shards[-1:], store, Progress(), {}))
    kit.order("full", *(shard.rpartition("__")[2] for shard in shards[:4]))

    outcomes = dict(pool(stage, shards, store, Progress(), {}))

    kinds = [type(outcomes[shard]) for shard in shards]
    assert isinstance(outcomes[shards[0]], NoSpaceError)
    assert outcomes[shards[0]].fields["errno"] == errno.EFBIG
    assert kinds.count(NoSpaceError) <= 4, "what the two workers had at hand"
    assert kinds.count(NotTriedError) >= len(shards) - 1 - 6
    assert outcomes[shards[-1]].reused, "what is stored already needs no space"
    assert not [path for path in (store.root / ESM2).rglob("*") if path.suffix == ".tmp"]


def test_a_shard_that_kills_its_worker_is_given_up_and_takes_no_other_with_it(case, kit):
    store, shards, stage, pool = case
    kit.order("kill", shards[2].rpartition("__")[2])

    outcomes = dict(pool(stage, shards[:6], store, Progress(), {"run_id": "r"}))

    error = outcomes.pop(shards[2])
    assert isinstance(error, WorkerLostError)
    assert f"died {ATTEMPTS_MAX} times" in error.message
    assert error.hint
    assert all(isinstance(outcome, ShardResult) and not outcome.reused for outcome in outcomes.values())
    times = Counter(row.shard for row in kit.computed(ESM2))
    assert times.pop(shards[2]) == ATTEMPTS_MAX
    assert max(times.values()) <= 2
    assert sum(times.values()) <= 5 + 1, "only what was at hand at the first death, for suspects run alone"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundle_sha256": "0" * 64}, "sees another bundle"),
        pytest.param({"probe_sha256": "0" * 64}, "does not see the frames", marks=pytest.mark.full),
        pytest.param({"package": "0.0"}, "virnuc-dagster", marks=pytest.mark.full),
    ],
)
def test_a_worker_that_sees_something_else_stops_the_run(case, monkeypatch, change, message):
    store, shards, stage, pool = case
    real = ray_pool.describe_job
    monkeypatch.setattr(ray_pool, "describe_job", lambda *arguments: replace(real(*arguments), **change))

    with pytest.raises(BackendError, match=message) as caught:
        list(pool(stage, shards[:2], store, Progress(), {}))

    assert caught.value.hint
    assert not store.list(ESM2)


def test_a_cluster_without_room_ends_the_run_after_a_while(case, monkeypatch):
    store, shards, stage, _ = case
    monkeypatch.setattr(ray_pool, "PATIENCE_SECONDS", 2.0)
    too_large = RayPool("", ComputeOptions(device="cpu", threads=3, workers=1))

    with pytest.raises(BackendError, match="no Ray worker for 2 s: the cluster has no room"):
        list(too_large(stage, shards[:2], store, Progress(), {}))

    assert not store.list(ESM2)


def test_a_run_that_reuses_everything_starts_no_worker(case, kit):
    store, shards, stage, _ = case
    list(local(stage, shards[:3], store, Progress(), {}))

    outcomes = dict(RayPool("256.0.0.0:1", ComputeOptions())(stage, shards[:3], store, Progress(), {}))

    assert all(outcome.reused for outcome in outcomes.values())
    assert kit.computed() == []
