"""A clock that is set back: times that then lie in the future, for which sensors and schedules would wait in silence.

Dagster remembers when a sensor or a schedule last looked and looks again so much later; the ledger remembers since when
a file or a batch waits. Dagster has no command for setting these back, so that its stored states are changed here: with
the daemon stopped, which holds a copy.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_dagster.inbox.ledger import LEDGER_NAME, Ledger
from virnuc_dagster.orchestration.private import ScheduleInstigatorData

#: Less is left alone: several machines' clocks differ by as much, and so long a silence hurts no one.
LEEWAY_SECONDS = 60.0


class Clock:
    """Notices that the time of day was set back, by comparing it with a clock that nobody sets."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def set_back(self) -> float:
        """Seconds that the time of day was set back by since the last call; 0 if less than the leeway."""
        offset = time.time() - time.monotonic()
        seconds = self._offset - offset
        if 0 < seconds < LEEWAY_SECONDS:
            return 0.0  # small steps add up
        self._offset = offset
        return max(seconds, 0.0)


def set_right(instance: dg.DagsterInstance, home: Path) -> float:
    """Bring times of the future back to now; no daemon may be running.

    Args:
        instance: Has the states of sensors and schedules, and their ticks.
        home: Has the ledger.

    Returns:
        How far the latest of them was ahead, in seconds; 0 if none was.
    """
    now = time.time()
    ahead = [0.0]
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        if data is not None and (late := dict(_future(data, now))):
            ahead += late.values()
            instance.update_instigator_state(state.with_data(data._replace(**dict.fromkeys(late, now))))
        if isinstance(data, ScheduleInstigatorData):  # those of sensors say nothing of the next one
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=now + LEEWAY_SECONDS):
                ahead.append(tick.timestamp)
                instance.update_tick(tick._replace(tick_data=tick.tick_data.with_status(tick.status, timestamp=now)))
    if (home / LEDGER_NAME).exists():
        ahead.append(Ledger(home).set_right(now, LEEWAY_SECONDS))
    return max(0.0, max(ahead) - now)


def _future(data: Any, now: float) -> Iterator[tuple[str, float]]:
    """The times of a state that are ahead, by name."""
    for name, value in data._asdict().items():
        if name.endswith("_timestamp") and value is not None and value > now + LEEWAY_SECONDS:
            yield name, value


def in_words(seconds: float) -> str:
    """A span of time for people."""
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{round(minutes / 60)} hours" if minutes < 48 * 60 else f"{round(minutes / 1440)} days"
