"""`virnuc predict --backend ray` with a cluster of its own is stopped or killed: nothing is left over, it goes on."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from kits.pipeline import SHARDS, Home
from kits.programs import Program
from kits.ray_cluster import FOLDER_VARIABLE, Kit
from kits.waiting import HANG_SECONDS

from virnuc_dagster.backends.ray_cluster import connected
from virnuc_dagster.cli import main
from virnuc_dagster.report import paths

STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")
RAY = ("--backend", "ray", "--workers", "1")  # one is enough here, and starts sooner


def family(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:
        return ""


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=HANG_SECONDS)
    left = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, [process.cmdline() for process in left]


def ray_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("virnuc-ray-*"))


def start(home: Home, kit: Kit) -> Program:
    """In a process group of its own, as a shell does it."""
    environment = {FOLDER_VARIABLE: str(kit.folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    return home.start(*RAY, first=("kits.ray_cluster:use_kit_worker",), session=True, **environment)


def test_stopped_twice_then_killed_then_finished(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    monkeypatch.setenv("DAGSTER_HOME", "")
    before = ray_folders()
    home, whole = Home(tmp_path), tmp_path / "whole"
    assert main(home.arguments("--home", str(whole), "--output", str(whole / "out"), "--quiet")) == 0
    kit = Kit(tmp_path / "kit")
    kit.folder.mkdir()
    for send, number, code, stage, count in (
        (os.kill, signal.SIGTERM, 143, "dnabert_s_embeddings", 2),
        (os.killpg, signal.SIGINT, 130, "dnabert_s_embeddings", 5),  # Ctrl-C reaches Ray's processes too
        (os.kill, signal.SIGKILL, -9, "esm2_embeddings", 4),
    ):
        kit.order("hold", f"{stage}:{count + 2:04}")
        victim = start(home, kit)
        home.wait_for_records(stage, count, victim)
        processes = family(victim)
        assert any("raylet" in process.name() for process in processes)
        send(victim.pid, number)
        stopped = home.finish(victim)
        assert stopped.code == code, stopped.err
        if number == signal.SIGKILL:  # Ray's agents notice last: they first try for a minute to tell the cluster
            processes = [process for process in processes if not title(process).endswith("Agent")]
        wait_until_gone(processes)
        if number != signal.SIGKILL:
            assert "what is finished is kept" in stopped.err
            assert ray_folders() == before
            assert not list(home.store.rglob("*.tmp"))
    kept = {stage: home.records(stage) for stage in STAGES}

    call = home.predict(*RAY)

    assert call.code == 0, call.err
    for stage in STAGES:
        after = home.records(stage)
        assert len(after) == SHARDS
        assert kept[stage].items() <= after.items(), f"{stage}: a finished shard was computed again"
        assert call.run["computed_shards"][stage] == SHARDS - len(kept[stage])
    assert call.run["backend"] == "ray"
    assert call.files() == {name: (whole / "out" / name).read_bytes() for name in paths.REPRODUCIBLE}
    for folder in ray_folders() - before:  # of the killed one
        shutil.rmtree(folder, ignore_errors=True)


def test_workers_import_nothing_from_the_working_folder(tmp_path, monkeypatch):
    """Ray puts the driver's working folder first in their path; anyone may have put a `torch.py` there."""
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    monkeypatch.chdir(tmp_path)
    with connected("", "cpu", 1, 1):
        found = ray.get(ray.remote(num_cpus=1)(lambda: sys.path).remote())
    assert found
    assert not {str(tmp_path), "", "."} & set(found)
