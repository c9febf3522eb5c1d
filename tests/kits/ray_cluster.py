"""Ray clusters for tests, and a worker that keeps a log and does harm on request."""

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from virnuc_dagster.backends import ray_pool, ray_worker
from virnuc_dagster.stages.shards import EmbeddingStage, PredictionStage

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
FOLDER_VARIABLE = "VIRNUC_RAY_KIT"


class Computed(NamedTuple):
    """A computation that began: what, in which process, on which node."""

    stage: str
    shard: str
    process: int
    node: str


class Kit:
    """A folder through which a test talks to workers on any node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def order(self, what: str, *shards: str) -> None:
        """`slow`, `hold`, `kill` or `full`: what workers do with these shards.

        Args:
            what: One of them.
            shards: Their numbers, such as 0003; a stage for all of it, `stage:0003`, or `all`.
        """
        whole = self.folder / f"{what}.new"  # a worker must not read half an order
        whole.write_text(" ".join(shards))
        whole.replace(self.folder / what)

    def ordered(self, what: str, stage: str, shard: str) -> bool:
        path, number = self.folder / what, shard.rpartition("__")[2]
        return path.exists() and bool({"all", stage, number, f"{stage}:{number}"} & set(path.read_text().split()))

    def note(self, *words: object) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def computed(self, stage: str = "") -> list["Computed"]:
        """Each computation that began, in order."""
        path = self.folder / "log"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Computed(row[0], row[1], int(row[2]), row[3]) for row in rows if row[0].startswith(stage)]

    def processes(self, stage: str) -> set[int]:
        """The processes that computed in a stage."""
        return {row.process for row in self.computed(stage)}

    def nodes(self, stage: str) -> set[str]:
        """The nodes that computed in a stage."""
        return {row.node for row in self.computed(stage)}


class KitWorker(ray_worker.Worker):
    """Logs what it computes; slow, held up, deadly or out of space where the kit says so."""

    def __init__(self) -> None:
        super().__init__()
        kit, self.here = Kit(Path(os.environ[FOLDER_VARIABLE])), threading.local()
        for stage in (EmbeddingStage, PredictionStage):
            stage.compute = self.logged(kit, stage.compute)

    def logged(self, kit, compute):
        import ray

        node = ray.get_runtime_context().get_node_id()

        def computed(stage, inputs, progress):
            shard = self.here.shard
            kit.note(stage.name, shard, os.getpid(), node)
            if kit.ordered("kill", stage.name, shard):
                os.kill(os.getpid(), signal.SIGKILL)
            if kit.ordered("slow", stage.name, shard):
                time.sleep(0.1)
            while kit.ordered("hold", stage.name, shard):
                time.sleep(0.02)
            if kit.ordered("full", stage.name, shard):  # for the rest of this process's life
                resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
            return compute(stage, inputs, progress)

        return computed

    def ensure(self, job, shard):
        self.here.shard = shard
        return super().ensure(job, shard)


def use_kit_worker() -> None:
    """From now on this process's runs have workers of the kit."""
    ray_pool.Worker = KitWorker  # type: ignore[misc]


@contextmanager
def two_nodes(folder: Path) -> Iterator["Cluster"]:
    """A cluster of two nodes of one CPU each, to which this process is connected, until the context ends.

    Args:
        folder: Of the kit.
    """
    import ray
    from ray.cluster_utils import Cluster

    before, here = dict(os.environ), str(Path(__file__).parents[1])
    scratch = tempfile.mkdtemp(prefix="vr-", dir="/tmp")  # a short name: Ray keeps sockets in it
    (Path(scratch) / "ray").mkdir()  # `Cluster` writes there before it makes it
    os.environ |= {  # nodes and their workers inherit this environment
        "RAY_TMPDIR": scratch,
        FOLDER_VARIABLE: str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
    }
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 500}
    head = {**NODE, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="virnuc")
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(scratch)


def kill_node(node) -> None:
    """SIGKILL of a raylet and of all that it started."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [*raylet.children(recursive=True), raylet]:
        process.kill()
