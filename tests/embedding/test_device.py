"""Names of devices and precisions, on a machine with and without GPUs."""

import subprocess
import sys

import pytest
import torch

from virnuc_dagster.embedding import device
from virnuc_dagster.embedding.device import resolve_device, set_threads, torch_dtype
from virnuc_dagster.errors import SettingsError


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_that_is_there(gpus, name, count, device):
    gpus(count)

    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_there(gpus, name, count):
    gpus(count)

    with pytest.raises(SettingsError, match=f"shows {count} CUDA"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_an_unknown_name(name):
    with pytest.raises(SettingsError, match="unknown device"):
        resolve_device(name)


def test_precisions():
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(SettingsError, match="unknown precision 'int8'"):
        torch_dtype("int8")


def test_importing_it_does_not_import_torch():
    code = "import sys, virnuc_dagster.embedding.device, virnuc_dagster.models.bundle; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("asked", "torch_takes", "cores", "quota", "set_to"),
    [
        (3, 2, 2, "max 100000", 3),  # what is asked for is done
        (0, 8, 4, "max 100000", 4),  # one a physical core
        (0, 8, 4, "200000 100000", 2),  # a container's quota
        (0, 8, 4, "50000 100000", 1),
        (0, 8, 4, None, 4),  # no cgroups
        (0, 1, 8, "max 100000", 1),  # OMP_NUM_THREADS=1
    ],
)
def test_threads(asked, torch_takes, cores, quota, set_to, monkeypatch, tmp_path):
    found: list[int] = []
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(device, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_takes)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: cores)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)

    assert set_threads(asked) == set_to
    assert found == [set_to]
