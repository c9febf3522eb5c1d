"""`virnuc` in processes of its own that need not import everything first: each is forked from one that has.

Importing torch, Dagster and this package costs two to four seconds of a core, and the suite starts many programs.
A fork shares with the test process neither memory, threads nor open files; it can be killed and stopped like any other.
What differs from `python -m virnuc_dagster`: the seed of hashes is that of the first process. Tests of what is imported
when, and one of each kind of program, start a Python of their own.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

MODULES = (
    "torch", "dagster", "dagster._core.execution.asset_backfill", "safetensors.torch", "sklearn.linear_model",
    "tokenizers", "upath", "virnuc_dagster.cli.app", "virnuc_dagster.definitions",
    "virnuc_dagster.orchestration.home_storage", "virnuc_dagster.orchestration.runs",
)  # fmt: skip


class Program:
    """A running `virnuc`; the part of `subprocess.Popen` that tests use.

    Args:
        arguments: Of `virnuc`.
        env: Its environment.
        session: Whether it leads a session, and so a process group, of its own.
        first: What it calls before anything else: the name of a function, `kits.module:function`, and its arguments.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], *, session: bool = False, first: Sequence[str] = ()
    ) -> None:
        self.args, self.returncode, self._status = [str(argument) for argument in arguments], None, b""
        pipes = [os.pipe() for _ in ("out", "err", "reply")]
        order = {
            "arguments": self.args,
            "env": dict(env),
            "cwd": str(Path.cwd()),
            "session": session,
            "first": [*first],
        }
        _the_first().order(order, [writer for _, writer in pipes])
        for _, writer in pipes:
            os.close(writer)
        self._reply = pipes[2][0]
        self.pid = int.from_bytes(os.read(self._reply, 4), "little")
        assert self.pid, "the first process has ended"
        self._texts = ["", ""]
        self._readers = [threading.Thread(target=self._collect, args=(n, pipes[n][0]), daemon=True) for n in (0, 1)]
        self._waiter = threading.Thread(target=self._wait_for_end, daemon=True)
        for thread in (*self._readers, self._waiter):
            thread.start()

    def _collect(self, number: int, pipe: int) -> None:
        with os.fdopen(pipe, errors="replace") as file:
            for line in file:
                self._texts[number] += line

    def _wait_for_end(self) -> None:
        with os.fdopen(self._reply, "rb") as reply:
            self._status = reply.read()

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None and not self._waiter.is_alive():
            self.returncode = os.waitstatus_to_exitcode(int.from_bytes(self._status, "little"))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._waiter.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it printed and what it said on stderr."""
        self.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return self._texts[0], self._texts[1]

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        return self._texts[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _First:
    """The process that has imported everything and forks on order."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )
        theirs.close()
        atexit.register(self.control.close)

    def order(self, order: dict, files: list[int]) -> None:
        socket.send_fds(self.control, [json.dumps(order).encode()], files)


_first: _First | None = None


def _the_first() -> _First:
    global _first
    if _first is None or _first.process.poll() is not None:
        _first = _First()
    return _first


def _serve(control: socket.socket) -> dict:
    """In the first process: fork for every order. Returns it in each grandchild; ends with the test process."""
    while True:
        order, files, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not order:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            out, err, reply = files
            child = os.fork()
            if child == 0:
                os.close(reply)
                os.dup2(out, 1)
                os.dup2(err, 2)
                os.close(out)
                os.close(err)
                return json.loads(order)
            os.close(out)
            os.close(err)
            os.write(reply, child.to_bytes(4, "little"))
            _, status = os.waitpid(child, 0)
            os.write(reply, status.to_bytes(4, "little"))
            os._exit(0)
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become(order: dict) -> None:
    """Be the program that was ordered, as if it had just been started."""
    from virnuc_dagster.cli import run

    if order["session"]:
        os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["virnuc", *order["arguments"]]
    if order["first"]:
        module, _, function = order["first"][0].partition(":")
        getattr(importlib.import_module(module), function)(*order["first"][1:])
    run()


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork would lose threads"
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
