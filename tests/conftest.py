import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that lies beside a developer's checkout; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data is not at {SHARED}")
    return SHARED


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
