"""A service on loopback for a module's tests, and a way to it for each test."""

from collections.abc import Iterator

import pytest
from kits.ports import free_port
from kits.s3 import Way, service


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with service() as found:
        yield found


@pytest.fixture
def way(port, monkeypatch) -> Iterator[Way]:
    found = Way(free_port(), port)
    found.open()
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.cut()
