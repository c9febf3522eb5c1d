"""Who is computing: written into commit records and run tags, so that a dead process can be told from a slow one."""

import functools
import os
import platform
from importlib.metadata import version

import psutil

from virnuc_dagster import __version__

HOST_TAG, PID_TAG, STARTED_TAG = "virnuc/host", "virnuc/pid", "virnuc/process_started"


@functools.cache
def _torch_version() -> str:
    return version("torch")


def writer(run_id: str = "") -> dict[str, str]:
    """The `writer` field of a commit record."""
    return {"package": __version__, "torch": _torch_version(), "host": platform.node(), "run_id": run_id}


def process_tags() -> dict[str, str]:
    """Run tags that name this process beyond doubt: host, pid and start time (pids are used again)."""
    started = psutil.Process().create_time()
    return {HOST_TAG: platform.node(), PID_TAG: str(os.getpid()), STARTED_TAG: f"{started:.2f}"}


def process_is_gone(tags: dict[str, str]) -> bool:
    """Whether the process named by run tags ran on this host and no longer exists."""
    if tags.get(HOST_TAG) != platform.node() or not tags.get(PID_TAG, "").isdigit():
        return False
    try:
        process = psutil.Process(int(tags[PID_TAG]))
        alive = process.status() != psutil.STATUS_ZOMBIE and f"{process.create_time():.2f}" == tags.get(STARTED_TAG)
    except psutil.NoSuchProcess:
        return True
    return not alive
