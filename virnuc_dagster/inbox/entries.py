"""What the ledger knows of a file and of a batch, and where a batch goes next."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Range = tuple[str, str]


class Fingerprint(NamedTuple):
    """What tells that a file is still the same without reading it: size in bytes, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Fingerprint":
        """The fingerprint of a file as it is now; a symbolic link is not followed."""
        facts = path.lstat()
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


@dataclass(frozen=True)
class KnownFile:
    """A file of the inbox.

    Attributes:
        path: Its name in the inbox.
        fingerprint: As last seen.
        seen_at: When this fingerprint was first seen, seconds since the epoch.
        state: `waiting`, `requested` (a run takes it in), `taken`, `duplicate`, `rejected` or `failed`.
        attempts: Runs that were to take it in.
        batch: The batch it became, or is a copy of.
        note: Why it was rejected or failed.
    """

    path: str
    fingerprint: Fingerprint
    seen_at: float
    state: str
    attempts: int
    batch: str
    note: str


@dataclass(frozen=True)
class BatchEntry:
    """A batch on its way to a report, or at rest.

    Attributes:
        batch: Its key.
        step: What its runs are doing: `cut`, `shards`, `predictions`, `report`; at rest `done` or `parked`.
        round: Raised each time work on the batch begins; runs carry it as a tag.
        ranges: First and last shard of each run of the step.
        requested_at: When the step was begun, seconds since the epoch.
        failures: Rounds in a row that ended without a complete report.
        reason: Why the last one did.
        wanted: What was wanted (a digest of bundle and precision) when it was parked.
        shared: Which run it shares with other batches at this step; empty if its runs are its own.
    """

    batch: str
    step: str
    round: int
    ranges: tuple[Range, ...]
    requested_at: float
    failures: int
    reason: str
    wanted: str
    shared: str = ""


class NextStep(NamedTuple):
    """Where a batch goes next in its round.

    Attributes:
        entry: The batch, as it is now.
        step: The step that it goes to.
        ranges: First and last shard of each run of that step.
        failure: What failed in the step before.
        together: How many batches may share its run at most.
    """

    entry: BatchEntry
    step: str
    ranges: tuple[Range, ...] = ()
    failure: str = ""
    together: int = sys.maxsize


@dataclass(frozen=True)
class Waiting:
    """A file or a batch whose report is not there yet.

    Attributes:
        name: The file's name in the inbox, or the batch's key.
        state: The file's state, or the batch's step; `failed` for a batch whose last round failed.
        since: When its waiting began, seconds since the epoch.
        reason: Why it failed; empty if it is on its way.
    """

    name: str
    state: str
    since: float
    reason: str
