"""Where and how precisely the encoders compute: device and precision names, and nothing about models.

Importing this module does not import torch, so settings and the command line may use it freely.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from virnuc_dagster.errors import SettingsError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]
"""Number format of the weights and matrix products; everything else and all results are float32."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_DEVICE_NAME = re.compile(r"auto|cpu|cuda(?::(?P<index>\d+))?")


def resolve_device(name: str) -> torch.device:
    """Turn a device setting into a device that exists on this machine.

    Args:
        name: `auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Returns:
        The device, for CUDA always with its index.

    Raises:
        SettingsError: The name is not one of these, or the machine has no such device.
    """
    import torch

    match = _DEVICE_NAME.fullmatch(name)
    if match is None:
        raise SettingsError(f"unknown device {name!r}", hint="use auto, cpu, cuda or cuda:N", device=name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    index = int(match["index"] or 0)
    if index >= count:
        raise SettingsError(
            f"device {name!r} is not there: this machine shows {count} CUDA device(s)",
            hint="use --device auto or cpu; on a GPU machine check the driver and CUDA_VISIBLE_DEVICES",
            device=name,
            available=count,
        )
    return torch.device("cuda", index)


def torch_dtype(precision: str) -> torch.dtype:
    """Return the torch number format of a precision name.

    Args:
        precision: One of `PRECISIONS`.

    Raises:
        SettingsError: The name is none of them.
    """
    import torch

    if precision not in PRECISIONS:
        raise SettingsError(
            f"unknown precision {precision!r}", hint=f"use one of {', '.join(PRECISIONS)}", precision=precision
        )
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def set_threads(threads: int) -> int:
    """Set how many CPU threads torch computes with in this process.

    Args:
        threads: That many; 0 for one a physical core that this process may use (its CPU affinity and the quota of its
            container count), but no more than torch itself would take (`OMP_NUM_THREADS`).

    Returns:
        The number set.
    """
    import torch

    threads = threads or min(torch.get_num_threads(), usable_cores())
    torch.set_num_threads(threads)
    return threads


def usable_cores() -> int:
    """Physical cores, no more than the CPUs this process may run on and the quota of its container (cgroup v2)."""
    import psutil

    cores = [psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):  # no such file, or no quota: "max 100000"
        quota, period = _CPU_QUOTA.read_text().split()
        cores.append(max(1, int(quota) // int(period)))
    return min(cores)
