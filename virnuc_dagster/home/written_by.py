"""Who is computing: written into commit records and run tags, so that a dead process can be told from a slow one.

A process is named by its host, its id and when it started. The start is counted in the kernel's ticks since boot, with
the id of that boot: the time of day at which it started moves when the clock is set.
"""

import functools
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import psutil

from virnuc_dagster import __version__

HOST_TAG, PID_TAG = "virnuc/host", "virnuc/pid"
#: Run id, boot and start of the process: a run that was copied from another has that one's tags until it has its own.
PROCESS_TAG = "virnuc/process"
#: What earlier versions wrote instead: the time of day at which the process started.
STARTED_TAG = "virnuc/process_started"
#: So far may the time of day of a start have moved since it was written.
_CLOCK_SECONDS = 3_600.0
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def _torch_version() -> str:
    return version("torch")


def writer(run_id: str = "") -> dict[str, str]:
    """Make the `writer` field of a commit record."""
    return {"package": __version__, "torch": _torch_version(), "host": platform.node(), "run_id": run_id}


def process_tags(run_id: str) -> dict[str, str]:
    """Run tags that name this process, and the run that they are of, beyond doubt."""
    return {
        HOST_TAG: platform.node(),
        PID_TAG: str(os.getpid()),
        PROCESS_TAG: f"{run_id} {process_start(os.getpid())}",
    }


def process_start(pid: int) -> str:
    """Tell when a process started, in a form that no clock setting changes; empty if it is gone, or a zombie.

    Linux: the boot's id and the ticks since then (proc(5), `starttime`). Elsewhere the kernel keeps the time of day as
    it was at the start, which nothing moves either.

    Raises:
        PermissionError: It is another user's, and may not be looked at.
    """
    try:
        if not _BOOT_FILE.exists():
            process = psutil.Process(pid)
            return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        # The name of the program, in brackets, may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{_BOOT_FILE.read_text().strip()} {fields[19]}"
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return ""


def process_is_gone(run_id: str, tags: Mapping[str, str], parent_tags: Mapping[str, str]) -> bool:
    """Tell whether the process that computes a run was on this host and no longer exists.

    Args:
        run_id: Of the run. Tags of another run, which Dagster copies into a retry, say nothing of this one.
        tags: Of the run.
        parent_tags: Of the run that this one is a retry of; empty if it is none.
    """
    pid = tags.get(PID_TAG, "")
    if tags.get(HOST_TAG) != platform.node() or not pid.isdecimal():
        return False
    try:
        if PROCESS_TAG in tags:
            owner, _, started = tags[PROCESS_TAG].partition(" ")
            return owner == run_id and process_start(int(pid)) != started
        inherited = bool(parent_tags) and all(
            parent_tags.get(name) == tags.get(name) for name in (PID_TAG, STARTED_TAG)
        )
        return not inherited and _is_gone_by_clock(int(pid), tags.get(STARTED_TAG, ""))
    except PermissionError:
        return False  # it is there


def _is_gone_by_clock(pid: int, started: str) -> bool:
    """Tell the same by the tags of older versions, whose time the clock may have moved since."""
    if not process_start(pid):
        return True
    try:
        return abs(psutil.Process(pid).create_time() - float(started)) > _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.AccessDenied):
        return False
