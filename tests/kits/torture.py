"""Payloads whose values say which version they are, the oracle, and processes that can be killed at one system call."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kits.waiting import HANG_SECONDS, wait_until
from virnuc_dagster.checkpoints import CheckpointKey, CheckpointMissingError, Level, LocalStore
from virnuc_dagster.errors import VirnucError

KEY = CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0001")
FOLDER = f"{KEY.stage}/{KEY.batch}"
RECORD = f"{FOLDER}/{KEY.shard}.pt.done"


def needs(command: str, package: str = "") -> None:
    """Skip without a Debian package."""
    if not shutil.which(command):
        pytest.skip(f"needs the Debian package {package or command}")


def payload(version: int, rows: int = 20, dim: int = 8) -> dict:
    """A payload whose values differ from every other version's, exact in float32."""
    data = ((torch.arange(rows * dim) + version * 7_919) % 65_521).to(torch.float32).reshape(rows, dim)
    return {"ids": [f"v{version}_chunk_{row}F1" for row in range(rows)], "data": data}


def save(root: Path, version: int, rows: int = 20) -> None:
    """Commit one version."""
    LocalStore(root).save(KEY, payload(version, rows), {"version": version})


def version_at(root: Path, level: Level = Level.FULL) -> int | None:
    """Which version the store hands out, after comparing every id and value; None if nothing is committed.

    Raises:
        CheckpointError: The store names damage.
    """
    store = LocalStore(root)
    try:
        loaded = store.load(KEY, level)
    except CheckpointMissingError:
        return None
    version = version_of(loaded)
    wanted = payload(version, len(loaded["ids"]), loaded["data"].shape[1])
    assert loaded["ids"] == wanted["ids"], "rows belong to other ids"
    assert torch.equal(loaded["data"], wanted["data"]), "values of no version"
    assert store.record(KEY).provenance == {"version": version}, "the record is of another version"
    return version


def version_of(loaded: dict) -> int:
    """The version that a payload's ids say."""
    return int(loaded["ids"][0].split("_")[0].removeprefix("v"))


def files(root: Path) -> set[str]:
    """Every file below a root, by relative path."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def assert_swept_clean(root: Path, version: int | None) -> None:
    """One sweep leaves the record, its data file and the kept generation, and nothing else; values stay."""
    store = LocalStore(root)
    store.sweep(grace_seconds=0)
    record = store.record(KEY)
    wanted = {RECORD, *(f"{FOLDER}/{name}" for name in (record.file, *record.previous))} if record else set()
    left = {name for name in files(root) if not name.startswith((".quarantine/", "failed_checkpoints"))}
    assert left <= wanted, f"left over: {left - wanted}"
    assert version_at(root) == version


#: Calls that change the disk or what is visible on it.
CHANGING = (
    "openat", "open", "creat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat",
    "renameat2", "link", "linkat", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "close",
)  # fmt: skip
#: Every call of an operation that a disk can refuse.
REFUSABLE = (*CHANGING, "read", "pread64", "lseek", "fstat", "newfstatat", "statx", "getdents64", "flock")

#: How a victim ended, by exit code.
FINISHED, TYPED, FULL, RAW, OTHER = 0, 40, 41, 42, 43


@dataclass(frozen=True)
class End:
    """How a victim ended: exit code, or minus the signal; what it said; what strace wrote."""

    code: int
    message: str
    trace: str

    def calls(self) -> Counter[str]:
        """System calls by name."""
        return Counter(re.findall(r"^(\w+)\(", self.trace, flags=re.MULTILINE))


def run_victim(operate: Callable[[], object], options: list[str], folder: Path) -> End:
    """Run an operation in a forked process under strace.

    The victim is forked from this process, which has imported everything, and stops itself; strace is attached to it,
    so that only the system calls of the operation count.

    Args:
        operate: What to do.
        options: Options of strace, such as `-e inject=fsync:signal=KILL:when=1`.
        folder: Where strace writes.
    """
    log = folder / "strace.log"
    reader, writer = os.pipe()
    victim = os.fork()
    if victim == 0:
        os.close(reader)
        _be_victim(operate, writer)
    os.close(writer)
    os.waitpid(victim, os.WUNTRACED)
    tracer = subprocess.Popen(
        ["strace", "-o", str(log), "-p", str(victim), *options], stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert "attached" in tracer.stderr.readline()
    os.kill(victim, signal.SIGCONT)
    with os.fdopen(reader) as messages:
        message = messages.read()
    _, status = os.waitpid(victim, 0)
    tracer.communicate()
    return End(os.waitstatus_to_exitcode(status), message, log.read_text())


def _be_victim(operate: Callable[[], object], writer: int) -> None:
    """The forked process: stop, work, say how it went, and leave without cleaning up."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGSTOP)
    code, message = FINISHED, ""
    try:
        operate()
    except VirnucError as error:
        code, message = (FULL if error.exit_code == 5 else TYPED), str(error)
    except OSError as error:
        code, message = RAW, repr(error)
    except BaseException as error:
        code, message = OTHER, repr(error)
    with contextlib.suppress(OSError):
        os.write(writer, message.encode())
    os._exit(code)


def random_kills(
    work: Callable[[], object], kills: int, longest: float, seed: int, after: Callable[[int], bool] = lambda _: True
) -> Iterator[int]:
    """Fork a worker that repeats `work` for ever, kill it after a random time; yields after each kill.

    Args:
        work: Called again and again in the worker.
        kills: How often.
        longest: Longest random time in seconds.
        seed: Of the times.
        after: Given the kill's number: whether it may come; the random time begins then.
    """
    import random

    times = random.Random(seed)
    for kill in range(kills):
        worker = os.fork()
        if worker == 0:
            torch.set_num_threads(1)
            try:
                while True:
                    work()
            finally:
                os._exit(1)
        wait_until(functools.partial(after, kill), poll_seconds=0.001)
        time.sleep(times.uniform(0, longest))
        os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the worker ended by itself"
        yield kill


def fresh_process(code: str, *arguments: str) -> str:
    """What a new Python process prints; it shares nothing with this one."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
