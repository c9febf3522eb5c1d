"""Waiting for what other processes and threads do, however slow the machine is: no test fails because it was busy."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

#: After this long nothing will happen any more. No correct test comes near it: it ends a hang, it limits no speed.
HANG_SECONDS = 900


class Runs(Protocol):
    """A process, as `subprocess.Popen` is."""

    def poll(self) -> int | None:
        """None while it runs."""


def wait_until(reached: Callable[[], T], process: Runs | None = None, *, poll_seconds: float = 0.01) -> T:
    """What `reached` returns once that is true.

    Args:
        reached: What to wait for.
        process: Who is to bring it about; once it has ended there is nothing more to wait for.
        poll_seconds: How often to look.
    """
    last = time.monotonic() + HANG_SECONDS
    while True:
        ended = process is not None and process.poll() is not None
        if found := reached():
            return found
        assert not ended, f"it ended with {process.poll()}"
        if time.monotonic() > last:
            raise TimeoutError(f"nothing has happened for {HANG_SECONDS} s")
        time.sleep(poll_seconds)
