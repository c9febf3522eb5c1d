"""The ledger of a home: which inbox files are known, and which batches are on their way to a report.

One small SQLite file, `<home>/ledger.sqlite`, shared by the sensors, the schedules and the runs. It is memory, not
truth: what a batch lacks is always read from the checkpoint store, and a lost ledger only means that every file of the
inbox is looked at once more and recognised by its content.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from virnuc_dagster.files import make_folder
from virnuc_dagster.inbox.entries import BatchEntry, Fingerprint, KnownFile, NextStep, Range, Waiting

__all__ = ["AT_REST", "LEDGER_NAME", "BatchEntry", "Fingerprint", "KnownFile", "Ledger", "NextStep", "Range", "Waiting"]

LEDGER_NAME = "ledger.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
  seen_at REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  batch TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '', failed_at REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS contents (sha256 TEXT PRIMARY KEY, batch TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_state ON files (state, seen_at);
CREATE TABLE IF NOT EXISTS batches (
  batch TEXT PRIMARY KEY, step TEXT NOT NULL, round INTEGER NOT NULL, ranges TEXT NOT NULL, requested_at REAL NOT NULL,
  failures INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', wanted TEXT NOT NULL DEFAULT '',
  arrived_at REAL NOT NULL, surveyed_at REAL NOT NULL DEFAULT 0, waiting_since REAL NOT NULL DEFAULT 0,
  shared TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS batches_step ON batches (step);
"""
_VERSION = 4
#: Columns that ledgers of older versions lack.
_NEWER = (
    ("batches", "waiting_since", "REAL NOT NULL DEFAULT 0"),
    ("files", "failed_at", "REAL NOT NULL DEFAULT 0"),
    ("batches", "shared", "TEXT NOT NULL DEFAULT ''"),
)
_TIMES = {"files": ("seen_at", "failed_at"), "batches": ("requested_at", "arrived_at", "surveyed_at", "waiting_since")}
#: Steps of a batch that need no sensor.
AT_REST = ("done", "parked")


def _bring_up_to_date(database: sqlite3.Connection) -> None:
    """Make the tables, or what a table of an older version lacks; may be done by two processes at once."""
    database.executescript(_SCHEMA)
    for table, column, kind in _NEWER:
        if column not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
            try:
                database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):
                    raise
    database.execute(f"PRAGMA user_version = {_VERSION}")


class Ledger:
    """Reads and writes the ledger; each call is one transaction.

    Args:
        home: The home folder; created with the first call.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / LEDGER_NAME

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        make_folder(self.path.parent)
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            if database.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
                _bring_up_to_date(database)
            yield database

    def copied_to(self, folder: Path) -> "Ledger":
        """A copy in another folder, to try what shall change nothing here."""
        copy = Ledger(folder)
        with self._database() as database, closing(sqlite3.connect(copy.path)) as target:
            database.backup(target)
        return copy

    def files(self, state: str | None = None) -> dict[str, KnownFile]:
        """Known files by name, those whose fingerprint was seen first coming first."""
        query = "SELECT path, size, mtime_ns, inode, seen_at, state, attempts, batch, note FROM files"
        with self._database() as database:
            if state is None:
                rows = database.execute(query).fetchall()
            else:
                rows = database.execute(f"{query} WHERE state = ? ORDER BY seen_at, path", (state,)).fetchall()
        return {row[0]: KnownFile(row[0], Fingerprint(*row[1:4]), *row[4:]) for row in rows}

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Fingerprint of each known file."""
        with self._database() as database:
            rows = database.execute("SELECT path, size, mtime_ns, inode FROM files").fetchall()
        return {row[0]: Fingerprint._make(row[1:]) for row in rows}

    def note_files(self, changed: dict[str, Fingerprint], gone: Iterable[str], now: float) -> None:
        """Put new and changed files down as waiting and forget those that are gone; their content stays known."""
        with self._database() as database:
            database.executemany(
                "INSERT OR REPLACE INTO files (path, size, mtime_ns, inode, seen_at, state) "
                "VALUES (?,?,?,?,?,'waiting')",
                [(path, f.size, f.mtime_ns, f.inode, now) for path, f in changed.items()],
            )
            database.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in gone])

    def set_file(
        self, path: str, fingerprint: Fingerprint, state: str, *, sha256: str = "", batch: str = "", note: str = ""
    ) -> None:
        """What became of a file, unless it has changed since; and which batch its bytes are."""
        now = fingerprint.size, fingerprint.mtime_ns, fingerprint.inode
        with self._database() as database:
            database.execute(
                "UPDATE files SET state = ?, batch = ?, note = ?, failed_at = iif(? = 'failed', ?, failed_at) "
                "WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?",
                (state, batch, note, state, time.time(), path, *now),
            )
            if sha256 and batch:
                database.execute("INSERT OR REPLACE INTO contents (sha256, batch) VALUES (?, ?)", (sha256, batch))

    def request_files(self, paths: Iterable[str]) -> None:
        """A run is to take in these files, as they were last seen."""
        with self._database() as database:
            database.executemany(
                "UPDATE files SET state = 'requested', batch = '', note = '', attempts = attempts + 1 WHERE path = ?",
                [(path,) for path in paths],
            )

    def release_files(self, paths: Iterable[str]) -> None:
        """Files whose run ended before it came to them wait again; it was no attempt of theirs."""
        with self._database() as database:
            database.executemany(
                "UPDATE files SET state = 'waiting', attempts = attempts - 1 WHERE path = ? AND state = 'requested'",
                [(path,) for path in paths],
            )

    def retry_files(self) -> None:
        """Files that could not be taken in for no fault of theirs (disk full, say) wait again, as if never tried."""
        with self._database() as database:
            database.execute("UPDATE files SET state = 'waiting', attempts = 0 WHERE state = 'failed'")

    def retry_failed(self, before: float, attempts_max: int, first_step: str) -> None:
        """Send files and batches that failed before a time on their way again, unless the next failure parks them.

        Args:
            before: Seconds since the epoch.
            attempts_max: Failures in a row after which a batch is parked.
            first_step: The step that batches begin with.
        """
        with self._database() as database:
            database.execute(
                "UPDATE files SET state = 'waiting' WHERE state = 'failed' AND failed_at < ? AND attempts < ?",
                (before, attempts_max - 1),
            )
            database.execute(
                "UPDATE batches SET step = ?, round = round + 1, ranges = '[]', requested_at = 0, reason = '', "
                "shared = '' WHERE step = 'done' AND reason <> '' AND requested_at < ? AND failures < ?",
                (first_step, before, attempts_max - 1),
            )

    def batch_with_content(self, sha256: str) -> str:
        """The batch that a file of exactly these bytes became, or an empty text."""
        with self._database() as database:
            row = database.execute("SELECT batch FROM contents WHERE sha256 = ?", (sha256,)).fetchone()
        return row[0] if row else ""

    def begin(
        self, batch: str, step: str, ranges: Iterable[Range] = (), *, wanted: str = "", requested: bool = False
    ) -> BatchEntry:
        """Begin a round of work on a batch and return its entry.

        Args:
            batch: Its key.
            step: The first step.
            ranges: First and last shard of each run of that step.
            wanted: A digest of what is wanted.
            requested: Whether the caller requests the runs itself; otherwise the sensor does.
        """
        now = time.time()
        with self._database() as database:
            database.execute(
                "INSERT INTO batches (batch, step, round, ranges, requested_at, wanted, arrived_at, waiting_since) "
                "VALUES (?,?,1,?,?,?,?,?) ON CONFLICT (batch) DO UPDATE SET step = excluded.step, round = round + 1, "
                "ranges = excluded.ranges, requested_at = excluded.requested_at, wanted = excluded.wanted, "
                "reason = '', shared = '', "
                "waiting_since = iif(waiting_since = 0, excluded.waiting_since, waiting_since)",
                (batch, step, json.dumps(list(ranges)), now if requested else 0, wanted, now, now),
            )
        entry = self.batch(batch)
        assert entry is not None
        return entry

    def move_on(self, steps: Iterable[NextStep], shared: str = "") -> list[BatchEntry]:
        """Requested now: the next steps of batches in their rounds; the first failure of a round is kept as its reason.

        Args:
            steps: Where they go.
            shared: What their common run is called.

        Returns:
            The batches as they are now, without those that were removed meanwhile.
        """
        now, moved = time.time(), []
        with self._database() as database:
            for step in steps:
                entry = step.entry
                found = database.execute(
                    "UPDATE batches SET step = ?, ranges = ?, requested_at = ?, shared = ?, "
                    "reason = CASE WHEN reason = '' THEN ? ELSE reason END WHERE batch = ? AND round = ?",
                    (step.step, json.dumps(step.ranges), now, shared, step.failure, entry.batch, entry.round),
                )
                if found.rowcount:
                    reason = entry.reason or step.failure
                    now_at = replace(entry, step=step.step, ranges=step.ranges, requested_at=now, reason=reason)
                    moved.append(replace(now_at, shared=shared))
        return moved

    def finish(self, batch: str, reason: str, failures_max: int) -> str:
        """End a round: without a reason all is well, else it counts as a failure, and too many in a row park it.

        Returns:
            The step it is now at, `done` or `parked`.
        """
        known = self.batch(batch)
        failures = known.failures + 1 if known and reason else 0
        step = "parked" if failures >= failures_max else "done"
        with self._database() as database:
            database.execute(
                "UPDATE batches SET step = ?, failures = ?, reason = ?, "
                "waiting_since = iif(? = '', 0, waiting_since) WHERE batch = ?",
                (step, failures, reason, reason, batch),
            )
        return step

    def waiting(self, before: float) -> list[Waiting]:
        """Files and batches that have waited for their report since before a time, the longest wait first.

        A batch whose last round failed, or that is parked, still waits.

        Args:
            before: Seconds since the epoch.
        """
        files = "SELECT path, state, seen_at, note FROM files WHERE state IN ('waiting','requested','failed')"
        batches = (
            "SELECT batch, iif(step = 'done', 'failed', step), waiting_since, reason FROM batches "
            "WHERE waiting_since > 0 AND (step <> 'done' OR reason <> '')"
        )
        with self._database() as database:
            query = f"SELECT * FROM ({files} UNION ALL {batches}) WHERE seen_at < ? ORDER BY seen_at"  # noqa: S608
            return [Waiting(*row) for row in database.execute(query, (before,))]

    def set_right(self, now: float, leeway_seconds: float) -> float:
        """Bring times that lie in the future, because the clock was set back, to now; returns the latest, or 0."""
        latest = 0.0
        with self._database() as database:
            for table, columns in _TIMES.items():
                for column in columns:
                    ahead = now + leeway_seconds
                    found = database.execute(f"SELECT max({column}) FROM {table} WHERE {column} > ?", (ahead,))  # noqa: S608
                    latest = max(latest, found.fetchone()[0] or 0.0)
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} > ?", (now, ahead))  # noqa: S608
        return latest

    def unpark(self, batch: str) -> bool:
        """Let the next scheduled backfill try a parked batch again; False if it is not parked."""
        with self._database() as database:
            query = "UPDATE batches SET step = 'done', failures = 0, reason = '' WHERE batch = ? AND step = 'parked'"
            return database.execute(query, (batch,)).rowcount > 0

    def surveyed(self, batches: Iterable[str], now: float) -> None:
        """Remember when the scheduled backfill last looked at batches."""
        with self._database() as database:
            database.executemany(
                "INSERT INTO batches (batch, step, round, ranges, requested_at, arrived_at, surveyed_at) "
                "VALUES (?,'done',0,'[]',0,?,?) ON CONFLICT (batch) DO UPDATE SET surveyed_at = excluded.surveyed_at",
                [(batch, now, now) for batch in batches],
            )

    def last_surveyed(self) -> dict[str, float]:
        """When each batch was last looked at; batches that never were are left out."""
        with self._database() as database:
            return dict(database.execute("SELECT batch, surveyed_at FROM batches").fetchall())

    def forget_batch(self, batch: str) -> None:
        """Take a removed batch out of the ledger; its file, if it is still in the inbox, is not taken in again."""
        with self._database() as database:
            database.execute("DELETE FROM batches WHERE batch = ?", (batch,))
            database.execute("DELETE FROM contents WHERE batch = ?", (batch,))

    def batch(self, batch: str) -> BatchEntry | None:
        """The entry of one batch, or None."""
        return next(iter(self._batches("batch = ?", (batch,))), None)

    def active(self, limit: int) -> list[BatchEntry]:
        """Batches on their way, those that arrived first coming first."""
        return self._batches("step NOT IN (?, ?) ORDER BY arrived_at, batch LIMIT ?", (*AT_REST, limit))

    def parked(self) -> list[BatchEntry]:
        """Batches that failed too often, with the reason."""
        return self._batches("step = 'parked' ORDER BY batch", ())

    def _batches(self, condition: str, values: tuple[object, ...]) -> list[BatchEntry]:
        columns = "batch, step, round, ranges, requested_at, failures, reason, wanted, shared"
        with self._database() as database:
            rows = database.execute(f"SELECT {columns} FROM batches WHERE {condition}", values).fetchall()  # noqa: S608
        return [
            BatchEntry(batch, step, number, tuple((first, last) for first, last in json.loads(ranges)), *rest)
            for batch, step, number, ranges, *rest in rows
        ]
