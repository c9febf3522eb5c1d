"""A real Postgres server on loopback, in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import pytest

from kits.ports import free_port
from kits.waiting import HANG_SECONDS, wait_until

PASSWORD = "hush-" + "y" * 20
USER = "virnuc"


def programs() -> Path:
    """Where Debian keeps the server's programs; skips without them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("needs the Debian package postgresql")
    return found[-1].parent


@dataclass
class Postgres:
    """A server; its own user runs it, for Postgres refuses root.

    Attributes:
        folder: Of its data and its password file.
        port: On loopback.
        process: While it runs.
    """

    folder: Path
    port: int
    process: subprocess.Popen | None = None
    bin: Path = field(default_factory=programs)

    def _as_its_user(self, *command: str) -> list[str]:
        if os.getuid():
            return list(command)
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]

    def create(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, "nobody", "nogroup")
        command = self._as_its_user(
            str(self.bin / "initdb"), "-D", str(self.folder / "data"), "-U", USER, "--auth=scram-sha-256",
            f"--pwfile={secret}", "--no-sync", "--encoding=UTF8", "--locale=C",
        )  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)
        secret.unlink()

    def start(self) -> None:
        command = self._as_its_user(
            str(self.bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1",
            "-k", str(self.folder),
        )  # fmt: skip
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        wait_until(self._answers, self.process, poll_seconds=0.05)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def connect(self) -> "psycopg2.extensions.connection":
        return psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres")

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: fast shutdown; SIGQUIT: at once, with recovery at the next start, as after a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(HANG_SECONDS)
            self.process = None

    def new_database(self, name: str) -> dict[str, str]:
        """Make a database; returns what an instance on it needs in its environment."""
        connection = self.connect()
        connection.autocommit = True
        connection.cursor().execute(f"create database {name}")
        connection.close()
        return {
            "VIRNUC_INSTANCE": "postgres",
            "DAGSTER_POSTGRES_USER": USER,
            "DAGSTER_POSTGRES_PASSWORD": PASSWORD,
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_PORT": str(self.port),
            "DAGSTER_POSTGRES_DB": name,
        }


@contextmanager
def server() -> Iterator[Postgres]:
    """A running server."""
    folder = Path(tempfile.mkdtemp(prefix="virnuc-postgres-"))
    postgres = Postgres(folder, free_port())
    try:
        postgres.create()
        postgres.start()
        yield postgres
    finally:
        postgres.stop()
        shutil.rmtree(folder)
