"""What all torture tests share: the two sizes, and the ledger from which the table in `docs/torture.md` is made.

A torture test makes faults, looks at the store from a fresh process or a fresh object, and counts what it found: a
whole checkpoint (the previous one or the new one) or a named error. Anything else fails the test at once.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Entry:
    """One row of the ledger.

    Attributes:
        promise: T1 to T15, see docs/torture.md.
        event: What was done, in a few words.
        events: How often.
        whole: How often a whole checkpoint was found afterwards.
        named: How often the damage was named by an error.
        facts: Anything else worth a column, such as calls by name.
    """

    promise: str
    event: str
    events: int
    whole: int
    named: int
    facts: dict[str, Any]


class Ledger:
    """Collects entries and keeps them for `make torture`; without VIRNUC_TORTURE_RESULTS they are only checked."""

    def __init__(self, test: str) -> None:
        self.test = test

    def __call__(self, promise: str, event: str, *, events: int, whole: int = 0, named: int = 0, **facts: Any) -> None:
        """Note what became of `events` faults; every one must have ended in a whole checkpoint or a named error."""
        assert events > 0, "nothing was tried"
        assert whole + named == events, f"{events} events, {whole} whole, {named} named"
        print(f"{promise} {event}: {events:,} events, {whole:,} whole, {named:,} named {facts or ''}")
        if results := os.environ.get("VIRNUC_TORTURE_RESULTS"):
            path = Path(results) / (re.sub(r"[^a-z0-9]+", "-", self.test.lower()).strip("-") + ".jsonl")
            with path.open("a") as file:
                file.write(json.dumps(asdict(Entry(promise, event, events, whole, named, facts))) + "\n")


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """Where a test notes what became of its faults."""
    return Ledger(request.node.nodeid)


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this is the full suite (`make torture`); the quick one is part of `make test`."""
    return os.environ.get("VIRNUC_TORTURE") == "full"
