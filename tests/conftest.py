import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that lies beside a developer's checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not at {SHARED}")
    return SHARED


def deaf_to() -> set[signal.Signals]:
    """Signals that end a process, of those that a process started now would not hear."""
    ending = {signal.SIGINT, signal.SIGTERM}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {number for number in ending if number in blocked or signal.getsignal(number) is signal.SIG_IGN}


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """What a test does to the environment ends with it; no later child is deaf to signals."""
    environment, before = dict(os.environ), deaf_to()
    yield
    os.environ.clear()
    os.environ.update(environment)
    assert deaf_to() == before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Under VIRNUC_REQUIRE_ALL, which `.ci/run` sets, a test that was skipped for want of anything is a failure."""
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("VIRNUC_REQUIRE_ALL") and skipped:
        terminalreporter.write_line(f"VIRNUC_REQUIRE_ALL is set and {len(skipped)} tests were skipped", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """See `pytest_terminal_summary`."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("VIRNUC_REQUIRE_ALL") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
