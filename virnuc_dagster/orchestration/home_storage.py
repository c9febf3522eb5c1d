"""How the Dagster instance of a home keeps its events: Dagster's own SQLite files, written at less cost.

A ranged run logs about sixteen events a shard. Dagster's SQLite event log opens and closes a database for each of a
dozen statements an event, and closing the last connection of a WAL database copies its log back and deletes it. This
one keeps its connections, remembers which tables exist, and writes what Dagster hands over as a batch in one
transaction. The files are the same: an instance may be used with and without this class, in turn or at once.

What was announced survives the death of the process: every event is committed, to a WAL file, before the next one is
made. `synchronous=NORMAL` leaves the fsync to the checkpoints of that file, so a power cut can take the last events
with it, but never the database; the store then still has their shards, and the next run announces them again.
"""

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from virnuc_dagster.orchestration.private import (
    INDEX_SHARD_NAME,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    DagsterSqliteStorage,
    InstanceRef,
    SqliteEventLogStorage,
)

#: Events of one transaction at most; others who want to write wait for its end (about .1 s).
BATCH_EVENTS = 200
#: Databases of runs that stay open, besides the one over all runs. A run's process needs one, the web server some.
_RUNS_OPEN = 4


class HomeEventLog(SqliteEventLogStorage):
    """The event log of a home. Other behaviour than that of Dagster's class is a fault."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[tuple[int, str], Engine] = OrderedDict()
        self._in_batch = threading.local()
        self._seen: set[tuple[str, str]] = set()
        self._tables = ""
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "HomeEventLog":
        """As Dagster makes it from `dagster.yaml`."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """A connection within a transaction, committed at the end; within a batch, that of the batch."""
        held: dict[str, Connection] = getattr(self._in_batch, "connections", {})
        if shard in held:
            yield held[shard]
            return
        with self._db_lock:
            with self._transaction(shard) as connection:
                yield connection
            self._announce(shard)

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        with self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _announce(self, shard: str) -> None:
        """Tell web servers that watch a run's database of news in it, as its being closed does otherwise."""
        if shard != INDEX_SHARD_NAME:
            os.utime(self.path_for_shard(shard))

    def _engine(self, shard: str) -> Engine:
        """The engine of a database with its one connection; a forked process opens its own."""
        name = os.getpid(), shard
        if name not in self._engines:
            self._engines[name] = self._open(shard)
            runs = [key for key in self._engines if key[1] != INDEX_SHARD_NAME]
            for key in runs[:-_RUNS_OPEN]:
                self._engines.pop(key).dispose(close=key[0] == os.getpid())
        self._engines.move_to_end(name)
        return self._engines[name]

    def _open(self, shard: str) -> Engine:
        engine = create_engine(
            self.conn_string_for_shard(shard),
            poolclass=QueuePool,
            pool_size=1,  # making the tables takes a second one for a moment
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA synchronous=NORMAL")

        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        return engine

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        """Make the tables of a database, if they are not there; those of a run as the ones of the run before.

        Dagster asks a migration tool, which reads some hundred files for each answer, and stamps each new database.
        """
        path = Path(str(engine.url.database))
        if path.exists() and _is_stamped(path):
            return  # all that Dagster's own way would find out
        new = not path.exists() and path.stem != INDEX_SHARD_NAME
        if new and self._tables:
            try:
                with closing(sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_SECONDS)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.executescript(self._tables)
                return
            except sqlite3.DatabaseError:
                pass  # another process was first, or the disk is full: Dagster copes with the one and says the other
        super()._initdb(engine, for_index_shard)
        if new:
            with closing(sqlite3.connect(path)) as connection:
                # Tables, indexes and the stamp, but no event that someone may have logged meanwhile.
                made = [s for s in connection.iterdump() if not s.startswith("INSERT") or "alembic_version" in s]
            self._tables = "\n".join(made)

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store events that Dagster hands over together, those of one run in one transaction a database."""
        for run_id in dict.fromkeys(entry.run_id for entry in events):
            with (
                self._db_lock,
                self._transaction(INDEX_SHARD_NAME) as index,
                self._transaction(run_id) as run,  # the run's database first, as with single events
            ):
                self._in_batch.connections = {INDEX_SHARD_NAME: index, run_id: run}
                try:
                    for entry in events:
                        if entry.run_id == run_id:
                            self.store_event(entry)
                finally:
                    self._in_batch.connections = {}
            self._announce(run_id)

    def has_table(self, table_name: str) -> bool:
        """Whether a table exists; one that was seen is not looked for again."""
        return self._once(("table", table_name), lambda: super(HomeEventLog, self).has_table(table_name))

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        look = super()._has_asset_key_col_on_connection
        return self._once(("column", column_name), lambda: look(conn, column_name))

    def _once(self, what: tuple[str, str], look: Any) -> bool:
        if what not in self._seen and look():
            self._seen.add(what)
        return what in self._seen

    def wipe(self) -> None:
        """Forget all events: the files of runs are deleted, so no connection to them may stay."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Close the databases."""
        self._close()
        super().dispose()

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                (pid, _), engine = self._engines.popitem()
                engine.dispose(close=pid == os.getpid())


def _is_stamped(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_SECONDS)) as connection:
            return connection.execute("SELECT 1 FROM alembic_version").fetchone() is not None
    except sqlite3.DatabaseError:
        return False  # no such table, or what Dagster says better


class HomeStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage with the event log of a home."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage.dispose()
        self._event_log_storage = HomeEventLog(self._event_log_storage._base_dir)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> "HomeStorage":
        """As Dagster makes it from `dagster.yaml`."""
        return cls.from_local(inst_data=inst_data, **config_value)


class HomeInstance(dg.DagsterInstance):
    """A Dagster instance whose storage, unless `dagster.yaml` names another, is that of a home, beside that file."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        """No settings of its own."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, ConfigurableClassData | None]:
        """What holds where `dagster.yaml` says nothing."""
        storage = ConfigurableClassData(__name__, HomeStorage.__name__, yaml.dump({"base_dir": base_dir}))
        return {**InstanceRef.config_defaults(base_dir), "storage": storage}

    def _get_event_batch_size(self) -> int:
        return BATCH_EVENTS
