"""Choosing a backend, sizing a crew, errors that travel, and a worker's work without Ray."""

import contextlib
import importlib
import os
import pickle
import pkgutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from kits.waiting import HANG_SECONDS

import virnuc_dagster
from virnuc_dagster import backends, files
from virnuc_dagster.backends import BackendError, local, ray_cluster, ray_pool
from virnuc_dagster.backends.ray_cluster import Crew, connected, plan_crew
from virnuc_dagster.backends.ray_pool import RayPool
from virnuc_dagster.backends.ray_worker import Worker, describe_job
from virnuc_dagster.checkpoints import CheckpointDamagedError, Level, LocalStore, NoSpaceError
from virnuc_dagster.cli import main
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.errors import SettingsError, VirnucError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.resources import Backends, Compute
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.ensure import NotTriedError, ShardWorker
from virnuc_dagster.stages.shards import EmbeddingStage

ESM2 = "esm2_embeddings"


@pytest.fixture
def ray_is_there(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: object())


def test_a_cluster_that_does_not_answer_is_said_at_once():
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with socket.socket() as taken:  # bound, but it does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(BackendError, match=f"cannot use the Ray cluster at {address}"),
            connected(address, "cpu", 1, 1),
        ):
            pass


@contextlib.contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """The address of something that answers whoever connects."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_a_port_of_something_else_is_said_at_once():
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with (
        listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(BackendError, match="what listens there is no Ray"),
        connected(address, "cpu", 1, 1),
    ):
        pass


def test_a_token_that_is_not_there_is_told_of(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    with listener(ray_cluster._HTTP2_GREETING[-9:]) as address:
        code = (
            f"from virnuc_dagster.backends.ray_cluster import connected\nwith connected({address!r}, 'cpu', 1, 1): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
        )
    assert f"BackendError: cannot use the Ray cluster at {address}: Token authentication is enabled" in done.stderr


def own_cluster_folder(monkeypatch, base: Path) -> contextlib.AbstractContextManager[dict]:
    base.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    return ray_cluster._own_cluster("cpu", 1, 1)


@pytest.mark.parametrize("length", range(20, 45))
def test_sockets_of_an_own_cluster_have_room_wherever_temporary_files_go(monkeypatch, length):
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as short:
        base = Path(short, "x" * (length - len(short) - 1))
        with own_cluster_folder(monkeypatch, base) as options:
            socket_path = options["_temp_dir"] + "/session_2026-11-28_00-36-45_148885_4194304/sockets/plasma_store"
            assert len(socket_path) <= 107


def test_the_folder_of_an_own_cluster_is_closed_to_others_and_goes_away_even_if_killed(monkeypatch):
    monkeypatch.setattr(files, "_UNHELD_SECONDS", 0)
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as short:
        abandoned = Path(short, "virnuc-ray-killed")
        (abandoned / "r" / "session").mkdir(parents=True)
        with own_cluster_folder(monkeypatch, Path(short)) as first, ray_cluster._own_cluster("cpu", 1, 1) as second:
            assert not abandoned.exists()
            for options in first, second:
                assert Path(options["_temp_dir"]).parent.stat().st_mode & 0o077 == 0
        assert not list(Path(short).iterdir())


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "workers", "crew"),
    [
        ([(2, 0)], "auto", 1, 0, Crew(2, 1, 0)),
        ([(2, 0)], "auto", 0, 0, Crew(1, 2, 0)),
        ([(8, 0)], "auto", 0, 2, Crew(2, 4, 0)),
        ([(8, 0), (4, 0)], "cpu", 0, 0, Crew(3, 4, 0)),
        ([(8, 0), (4, 0)], "cpu", 3, 0, Crew(3, 3, 0)),
        ([(8, 2), (8, 1)], "auto", 0, 0, Crew(3, 1, 1)),
        ([(8, 2), (16, 0)], "auto", 4, 0, Crew(2, 4, 1)),
        ([(8, 2), (16, 0)], "cpu", 4, 0, Crew(6, 4, 0)),
        ([(0, 0), (8, 4)], "cuda", 2, 0, Crew(4, 2, 1)),
        ([(0, 0)], "cpu", 2, 5, Crew(5, 2, 0)),
    ],
    ids=[
        "one thread each", "all cores for one", "cores shared out", "as the smallest node", "what is left over is idle",
        "one a GPU", "nodes without a GPU do not join", "CPUs only, if asked for", "a head without CPUs",
        "nodes still to come",
    ],
)  # fmt: skip
def test_workers_of_a_cluster(nodes, device, threads, workers, crew):
    assert plan_crew([{"CPU": cpu, "GPU": gpu} for cpu, gpu in nodes], device, threads, workers) == crew


@pytest.mark.parametrize(("nodes", "device", "threads"), [([(4, 0)], "cpu", 8), ([(4, 0)], "cuda", 1), ([], "auto", 0)])
def test_no_room_is_said_at_once(nodes, device, threads):
    with pytest.raises(BackendError, match="has room for a worker") as caught:
        plan_crew([{"CPU": cpu, "GPU": gpu} for cpu, gpu in nodes], device, threads, 0)
    assert "--threads" in caught.value.hint


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text('backend = "ray"\nworkers = 3\nray_address = "file:1"\n')
    assert (Settings.read(home=tmp_path).backend, Settings.read(home=tmp_path).workers) == ("ray", 3)
    monkeypatch.setenv("VIRNUC_BACKEND", "local")
    monkeypatch.setenv("VIRNUC_RAY_ADDRESS", "environment:1")

    settings = Settings.read(home=tmp_path, workers=4)

    assert (settings.backend, settings.workers, settings.ray_address) == ("local", 4, "environment:1")
    with pytest.raises(SettingsError, match="backend"):
        Settings.read(backend="spark")


def test_settings_reach_the_run_and_its_tags_beat_them(tmp_path, ray_is_there):
    resources = build_definitions(
        settings=Settings(home=tmp_path, backend="ray", workers=2, ray_address="a:1")
    ).resources
    compute = resources["compute"].for_run({})
    assert (compute.backend, compute.workers, resources["backends"].ray_address) == ("ray", 2, "a:1")
    tagged = Compute().for_run({"virnuc/backend": "ray", "virnuc/workers": "7"})
    assert (tagged.backend, tagged.workers) == ("ray", 7)
    assert isinstance(resources["backends"].choose(tagged.options(Level.LOAD)), RayPool)
    assert Backends(pools=ray_pool.Pools()).choose(ComputeOptions()) is local


def test_runs_share_workers_only_where_they_are_kept(monkeypatch):
    closed = []

    class Pool(RayPool):
        def close(self):
            closed.append(self)

    monkeypatch.setattr(ray_pool, "RayPool", Pool)
    of_each_run = ray_pool.Pools()
    alone = of_each_run.take("", ComputeOptions(workers=1))
    of_each_run.give_back(alone)
    assert closed == [alone]
    with contextlib.closing(ray_pool.Pools(kept=True)) as pools:
        first = pools.take("", ComputeOptions(workers=1))
        pools.give_back(first)
        assert pools.take("", ComputeOptions(workers=1)) is first
        other = pools.take("", ComputeOptions(workers=2))
        assert other is not first
        assert closed == [alone]
    assert closed[1:] == [other, first]


@pytest.mark.parametrize(
    ("config", "tags", "device"),
    [
        ({}, {}, "auto"),
        ({"device": "cuda"}, {}, "cuda"),
        ({}, {"virnuc/gpu": "1"}, "cuda"),
        ({"device": "cpu"}, {"virnuc/gpu": "1"}, "cpu"),
    ],
)
def test_with_ray_a_gpu_need_not_be_here_and_is_not_held_here(ray_is_there, config, tags, device):
    compute = Compute(backend="ray", **config).for_run(tags)
    assert (compute.device, compute.held_device) == (device, "")


def test_with_ray_a_certain_gpu_cannot_be_asked_for(ray_is_there):
    with pytest.raises(SettingsError, match="contradict") as caught:
        Compute(backend="ray", device="cuda:1").for_run({})
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    (tmp_path / "a.fasta").write_text(">a\nACGT\n")

    code = main(["predict", str(tmp_path / "a.fasta"), "--home", str(tmp_path), "--output", str(tmp_path / "out"),
                 "--backend", "ray"])  # fmt: skip

    assert code == 1
    assert "pip install 'virnuc-dagster[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    with pytest.raises(BackendError):
        Compute(backend="ray").for_run({})


def every_error() -> list[type[VirnucError]]:
    for module in pkgutil.walk_packages(virnuc_dagster.__path__, "virnuc_dagster."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, new = set(), {VirnucError}
    while new:
        found |= new
        new = {kind for parent in new for kind in parent.__subclasses__()} - found
    return sorted(found, key=lambda kind: kind.__name__)


def test_every_error_survives_a_change_of_process():
    for kind in every_error():
        try:
            error = kind("what happened", hint="what to do", path="p")
        except TypeError:
            error = kind("a/path", "reason")
        error.exit_code = 77  # as `shards_failed` does
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert (str(copy), copy.hint, copy.fields, copy.exit_code) == (str(error), error.hint, error.fields, 77)
        assert copy.__dict__ == error.__dict__


class Stage:
    """Nothing, quickly.

    Args:
        meeting: Whether the first computation and the second preparation each wait until the other has begun.
    """

    name, dim, tokens, token_budget = ESM2, 4, 7, 64

    def __init__(self, *, meeting: bool = False) -> None:
        self.at_work: set[str] = set()
        self.prepared = 0
        self.computing, self.preparing = threading.Event(), threading.Event()
        if not meeting:
            self.computing.set()
            self.preparing.set()

    def reads(self, shard):
        return []

    def wanted(self, shard, records):
        return {"of": shard}

    def prepare(self, shard):
        with self.work("prepare"):
            self.prepared += 1
            if self.prepared == 2:
                self.preparing.set()
                assert self.computing.wait(HANG_SECONDS)
        return shard

    def compute(self, shard, progress):
        with self.work("compute"):
            self.computing.set()
            assert self.preparing.wait(HANG_SECONDS), "preparing must not wait for computing"
        return {"ids": ["a"], "data": torch.ones(1, 4)}

    @contextlib.contextmanager
    def work(self, what):
        assert what not in self.at_work, "two at a time"
        self.at_work.add(what)
        yield
        self.at_work.remove(what)


def test_a_worker_prepares_one_shard_while_it_computes_another(tmp_path):
    stage, store = Stage(meeting=True), LocalStore(tmp_path)
    worker = ShardWorker(stage, store, Progress(), {"run_id": "r"})
    done = []
    threads = [threading.Thread(target=lambda k=k: done.append(worker.ensure(f"b__{k:04d}"))) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(store.list(ESM2)) == len(done) == 6
    assert {(one.reused, one.tokens, one.facts["token_budget"]) for one in done} == {(False, 7, 64)}
    assert worker.ensure("b__0000").reused


def test_a_stopped_worker_saves_nothing_more(tmp_path):
    worker = ShardWorker(Stage(), LocalStore(tmp_path), Progress(), {})
    worker.ensure("b__0000")
    worker.stop()

    with pytest.raises(NotTriedError):
        worker.ensure("b__0001")

    assert len(LocalStore(tmp_path).list(ESM2)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"package": "0.0.1"}, r"has virnuc-dagster .*, this process 0\.0\.1"),
        ({"bundle_sha256": "0" * 64}, "sees another bundle at mini"),
        ({"probe_sha256": "0" * 64}, "does not see the frames of b__0001 in "),
        ({"bundle": "/nowhere"}, "no bundle '/nowhere'"),
    ],
)
def test_a_worker_refuses_what_the_driver_does_not_mean(tmp_path, change, message):
    store = LocalStore(tmp_path)
    stage = EmbeddingStage(ESM2, store, open_bundle("mini"), ComputeOptions(device="cpu"))
    job = describe_job(stage, "b__0001", store, ComputeOptions(device="cpu"), {})
    worker = Worker()
    assert worker.begin(job) is None

    refusal = worker.begin(replace(job, **change))

    assert isinstance(refusal, VirnucError)
    assert refusal.hint
    assert len(pickle.dumps(job)) < 2_000
    with pytest.raises(VirnucError, match=message):
        raise refusal


def test_an_unexpected_error_of_a_worker_keeps_its_traceback(tmp_path, monkeypatch):
    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__("odd")

    def fail(self, shard, records):
        raise OddError(1, 2)

    monkeypatch.setattr(EmbeddingStage, "wanted", fail)
    store = LocalStore(tmp_path)
    stage = EmbeddingStage(ESM2, store, open_bundle("mini"), ComputeOptions(device="cpu"))
    job = describe_job(stage, "b__0001", store, ComputeOptions(device="cpu"), {})

    outcome, notes = pickle.loads(pickle.dumps(Worker().ensure(job, "b__0001")))

    assert isinstance(outcome, RuntimeError)
    assert "OddError: odd" in str(outcome)
    assert "in fail" in outcome.__notes__[0]
    assert notes == ()


def test_known_errors_stay_what_they_are():
    for error in (CheckpointDamagedError("p", "r"), NoSpaceError("full", hint="h", errno=28)):
        assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_the_launchers_file_is_one():
    pytest.importorskip("ray", reason="needs the extra [ray]")
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (Path(__file__).parents[2] / "deploy" / "ray" / "cluster.yaml").read_text()
    config = yaml.safe_load(text)

    validate_config(prepare_config(config))

    assert len(config["provider"]["worker_ips"]) == config["min_workers"] == config["max_workers"]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
