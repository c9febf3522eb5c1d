"""A test of a sensor or schedule in the web UI shows what it would do, and does nothing."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from virnuc_dagster.home.settings import Settings
from virnuc_dagster.inbox.ledger import Ledger

Context = dg.SensorEvaluationContext | dg.ScheduleEvaluationContext


def is_trial(context: Context) -> bool:
    """Whether someone tests it in the UI: a tick of the daemon logs by its number, a test by the time."""
    key = context._log_key
    return not key or not key[-1].isdigit()


@contextmanager
def ledger_of(context: Context, settings: Settings) -> Iterator[Ledger]:
    """The home's ledger; in a test a copy of it, which is thrown away."""
    ledger = Ledger(settings.home)
    if not is_trial(context):
        yield ledger
        return
    with tempfile.TemporaryDirectory() as folder:
        yield ledger.copied_to(Path(folder))
