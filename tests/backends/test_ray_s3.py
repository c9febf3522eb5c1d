"""Backend `ray` with a store on S3: workers on two nodes commit to one bucket, and one node is killed meanwhile."""

import threading
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="needs the extra [s3]")
from kits.pipeline import DEMO
from kits.ray_cluster import Kit, KitWorker, kill_node, two_nodes
from kits.s3 import environment, new_bucket, service
from kits.waiting import wait_until

from virnuc_dagster.backends import ray_pool
from virnuc_dagster.checkpoints import Level, open_store
from virnuc_dagster.cli import main
from virnuc_dagster.report import paths
from virnuc_dagster.stages.pipeline import FRAMES, PREDICTIONS

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"


@pytest.fixture
def s3(monkeypatch):
    """The URL of a store on a service that nodes started from now on find by their environment."""
    with service() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        yield new_bucket(port)


@pytest.fixture
def cluster(s3, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    (tmp_path / "kit").mkdir()
    monkeypatch.setattr(ray_pool, "Worker", KitWorker)
    with two_nodes(tmp_path / "kit") as cluster:
        yield cluster


def predict(home: Path, *arguments: str) -> dict[str, bytes]:
    """Result files of a call that ends well."""
    common = ("--shard-size", "6", "--threads", "1", "--quiet")
    assert main(["predict", str(DEMO), "--home", str(home), "--output", str(home / "out"), *common, *arguments]) == 0
    return {name: (home / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}


def test_a_node_is_killed_while_two_commit_to_one_bucket(s3, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    expected = predict(tmp_path / "local")
    kit = Kit(tmp_path / "kit")
    kit.order("slow", "all")
    kit.order("hold", ESM2)
    nodes_before_kill: set[str] = set()

    def murder() -> None:
        nodes_before_kill.update(
            wait_until(lambda: len(found := {row.node for row in kit.computed(ESM2)}) > 1 and found)
        )
        kit.order("hold")
        wait_until(lambda: len(kit.computed(ESM2)) >= 8)
        nodes_before_kill.update(row.node for row in kit.computed(ESM2))
        kill_node(*cluster.worker_nodes)

    murderer = threading.Thread(target=murder, daemon=True)
    murderer.start()
    found = predict(tmp_path / "ray", "--backend", "ray", "--store", s3)
    murderer.join(1)

    assert len(nodes_before_kill) == 2
    assert found == expected
    assert not (tmp_path / "ray" / "store").exists()
    store = open_store(s3)
    shards = [key.shard for key in store.list(FRAMES)]
    assert len(shards) >= 20
    for stage in (DNABERT_S, ESM2, PREDICTIONS):
        assert [key.shard for key in store.list(stage)] == shards
        for key in store.list(stage):
            store.load(key, Level.FULL)
    begun = len(kit.computed(ESM2))
    assert begun <= len(shards) + 2, (
        "the dead node lost one computation that was under way, and one on its way to the bucket"
    )
