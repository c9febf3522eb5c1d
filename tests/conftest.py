import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest

import virnuc_dagster.stages  # noqa: F401 - registers what checkpoints hold

#: An example may take this long: Hypothesis' own fifth of a second is measured by the clock, and a machine may be busy.
hypothesis.settings.register_profile("virnuc", hypothesis.settings(), deadline=timedelta(seconds=10))
hypothesis.settings.load_profile("virnuc")
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that lies beside a developer's checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """The environment of a test ends with it, and what Dagster's in-process runs make of SIGTERM."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait for a daemon's ticks come first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: item.path.parent.name != "ui")


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
