import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

TESTS = Path(__file__).parent
#: Also what is marked `full`, with more and other examples each time: `make test-full`.
FULL = bool(os.environ.get("VIRNUC_FULL"))
#: Folders whose tests start no programs and no services: `make check`.
FAST = {
    "checkpoints", "classify", "evaluation", "home", "inbox", "planning", "report", "sequences", "stages", "upkeep",
}  # fmt: skip
#: Folders whose tests wait for daemons, clusters and kills: they begin first, so that no worker is left with them.
LONG = ("ui", "postgres", "deploy", "backends", "torture", "s3", "pipeline", "docs", "orchestration")
#: Files of many tests that share nothing costly: workers divide them.
DIVIDED = {"test_system_calls.py", "test_power_loss.py", "test_mutations.py", "test_hostile.py", "test_loop.py"}

# Neither an example nor its making has a limit of time, for a machine may be busy; the same examples are tried each
# time, for a find of chance is a find of `make test-full`, not the failure of whoever runs the tests next.
_no_clock = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("usual", max_examples=50, derandomize=True, database=None, **_no_clock)
hypothesis.settings.register_profile("full", max_examples=300, **_no_clock)
hypothesis.settings.load_profile("full" if FULL else "usual")
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


def pytest_configure(config: pytest.Config) -> None:
    """Make every folder of tests a marker, and signals what they are on a terminal: `nohup` and `&` ignore some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "full: more of what another test proves once; see `make test-full`")
    config.addinivalue_line("markers", "fast: starts no program and no service; see `make check`")
    for folder in sorted(path.name for path in TESTS.iterdir() if path.is_dir()):
        config.addinivalue_line("markers", f"{folder}: tests/{folder}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast`, read no folder that has no such test: to import them all takes as long as to run these."""
    others = collection_path.parent == TESTS and collection_path.name not in FAST
    return True if others and config.option.markexpr == "fast" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test by its folder and as `fast`, put the long ones first, and leave out what is marked `full`."""
    items.sort(key=lambda item: LONG.index(folder) if (folder := item.path.parent.name) in LONG else len(LONG))
    for item in items:
        folder, is_full = item.path.parent.name, item.get_closest_marker("full") is not None
        if item.path.parent != TESTS:
            item.add_marker(folder)
        if folder in FAST and not is_full:
            item.add_marker("fast")
    if not FULL and "full" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one of pytest's workers, so that what its tests share is made once; see `DIVIDED`."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if Path(file).name in DIVIDED else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


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
