"""Signal handlers of whoever calls: libraries that take them for themselves must give them back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TAKEN = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back that were there before the body; Dagster and Ray replace them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _TAKEN}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # set by no Python code: cannot be put back
                signal.signal(number, handler)
