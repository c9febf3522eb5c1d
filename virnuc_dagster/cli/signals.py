"""Ctrl-C, SIGTERM and SIGHUP: known for certain, whatever handlers Dagster puts in between.

Dagster replaces the Python handlers while it runs and turns a signal into a failed run. Python's wake-up descriptor
receives every signal's number all the same.
"""

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from virnuc_dagster.services.supervisor import ending_signals


class Interrupted(BaseException):
    """The user or the system asked the program to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


def _raise_interrupted(number: int, _: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` if an ending signal arrives in the body, also if the body turned it into something else."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    watched = ending_signals()
    handlers = {number: signal.signal(number, _raise_interrupted) for number in watched}
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            if number := _arrived(receiver, watched):
                raise Interrupted(number) from error
            raise
        if number := _arrived(receiver, watched):
            raise Interrupted(number)
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        receiver.close()
        sender.close()


def _arrived(receiver: socket.socket, watched: Sequence[signal.Signals]) -> int:
    """Return the first watched signal that arrived, or 0."""
    try:
        received = receiver.recv(4096)
    except BlockingIOError:
        return 0
    return next((number for number in received if number in watched), 0)
