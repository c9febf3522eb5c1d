"""Keeping a few processes running together: all start, one that dies is started again, all stop in order.

`virnuc up` runs four: the server of the code location, whose children the runs are; the web server; the daemon; and
the server of the report pages.
They are apart so that the web server or the daemon can end, or be restarted, without a run noticing.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virnuc_dagster.errors import VirnucError

_PR_SET_PDEATHSIG = 1


class ServiceError(VirnucError):
    """A service could not be kept running."""


@dataclass
class Service:
    """One process to keep running.

    Attributes:
        name: For messages.
        command: Program and arguments.
        listens_on: Socket file that is there once it is ready; the services after it wait for that.
        environment: Its environment variables; this process's own if None.
        process: The running process; None before the start.
        ended: Times at which it ended by itself lately.
    """

    name: str
    command: Sequence[str]
    listens_on: Path | None = None
    environment: Mapping[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None
    ended: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C reaches the supervisor alone, which stops all in order."""
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
            self.command,
            env=self.environment,
            start_new_session=True,
            preexec_fn=_made_mortal,
            stdin=subprocess.DEVNULL,
        )

    def stop(self, seconds: float) -> None:
        """Ask it and its children to end; whatever is still there after `seconds` is killed."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
            if self.process.poll() is not None and not _group_alive(self.process.pid, seconds):
                return


def _group_alive(group: int, seconds: float) -> bool:
    """Tell whether a process group still has members after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def _made_mortal() -> None:
    """Bind a service to its parent's life, before its program starts.

    It hears SIGINT, also as a child of a shell's background job, which does not: Dagster gives SIGTERM whatever SIGINT
    has, so it would hear neither. And, on Linux, if the supervisor is killed it ends too, so that no second daemon is
    left behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def ending_signals() -> list[signal.Signals]:
    """List Ctrl-C, SIGTERM, and SIGHUP of a closing terminal unless it is ignored, as `nohup` asks for."""
    hung_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def supervise(
    services: Sequence[Service],
    note: Callable[[str], None],
    *,
    stop_seconds: float = 15.0,
    restarts_max: int = 5,
    poll_seconds: float = 0.3,
    look_after: Callable[[], None] | None = None,
    look_seconds: float = 20.0,
) -> None:
    """Run services until an ending signal (`ending_signals`), or until one of them cannot be kept running.

    Args:
        services: In the order in which they start; they stop in the opposite order.
        note: Told when one is started again.
        stop_seconds: How long each may take to end before it is killed.
        restarts_max: Restarts of one service within a minute.
        poll_seconds: How often to look.
        look_after: Called every `look_seconds`; it must not raise.
        look_seconds: See there.

    Raises:
        ServiceError: A service ended too often.
    """
    stopping: list[int] = []
    before = {number: signal.signal(number, lambda number, _: stopping.append(number)) for number in ending_signals()}
    try:
        started: list[Service] = []
        looked = time.monotonic()
        while not stopping:
            if look_after and time.monotonic() - looked >= look_seconds:
                look_after()
                looked = time.monotonic()
            if len(started) < len(services) and all(not s.listens_on or s.listens_on.exists() for s in started):
                started.append(services[len(started)])
                started[-1].start()
            time.sleep(poll_seconds)
            for service in started:
                _revive(service, note, restarts_max)
    finally:
        for service in reversed(services):
            service.stop(stop_seconds)
        for number, handler in before.items():
            signal.signal(number, handler)


def _revive(service: Service, note: Callable[[str], None], restarts_max: int) -> None:
    assert service.process is not None
    if (code := service.process.poll()) is None:
        return
    now = time.monotonic()
    service.ended = [*(at for at in service.ended if now - at < 60), now]
    if len(service.ended) > restarts_max:
        raise ServiceError(
            f"the {service.name} ended {len(service.ended)} times within a minute, at last with code {code}",
            hint="its last messages above say why; is the port taken by another program?",
        )
    note(f"the {service.name} ended with code {code}; starting it again")
    service.start()
