"""Ports for the services that tests start.

A port that the system hands out may be taken again, by a connection or another test, before the service listens on it.
These are below the range the system chooses from, and each of pytest's workers has its own.
"""

import itertools
import os
import socket

_FIRST, _OF_A_WORKER, _WORKERS = 20_000, 1_000, 12
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_ports = itertools.cycle(range(_FIRST + _worker * _OF_A_WORKER, _FIRST + (_worker + 1) * _OF_A_WORKER))
for _ in range(os.getpid() % _OF_A_WORKER):  # another pytest on this machine begins elsewhere
    next(_ports)


def free_port(following: int = 0) -> int:
    """A port that nobody listens on, nor on so many after it; never given twice."""
    while True:
        wanted = [next(_ports) for _ in range(1 + following)]
        if wanted == list(range(wanted[0], wanted[0] + len(wanted))) and all(map(_is_free, wanted)):
            return wanted[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
