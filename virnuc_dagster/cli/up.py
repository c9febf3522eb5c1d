"""`virnuc up`: the web UI, the daemon and the reports of this home's Dagster instance, until Ctrl-C."""

import contextlib
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.cli.options import home_option
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.report_server import ADDRESS_VARIABLE
from virnuc_dagster.settings import HOME_VARIABLE, STORE_VARIABLE, Settings

MODULE = "virnuc_dagster.definitions"
#: A tick of a sensor or schedule may take this long; a large survey needs more than Dagster's 60 seconds.
_TICK_SECONDS = "300"


@click.command(
    epilog="""\b
Examples:
  virnuc up                                  # then: cp reads.fasta .virnuc/inbox/
  virnuc up --home /data/virnuc --port 8080  # a second home beside the first"""
)
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65534), help="Of the UI; reports are on the next."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the UI has no log-in.")
@home_option
def up(port: int, host: str, **flags: Any) -> int:
    """Run the web UI and the automation (inbox, scheduled backfill, audit) on this home; Ctrl-C ends it."""
    from virnuc_dagster.instance import clear_dead_runs, open_instance
    from virnuc_dagster.locks import only_one
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.supervisor import supervise

    settings = Settings.read(**flags)
    open_bundle(settings.bundle)  # one that is not there is said now, not by every run
    url, reports_port = f"http://{host}:{port}", port + 1
    os.environ |= {"DAGSTER_HOME": str(settings.dagster_home), HOME_VARIABLE: str(settings.home)}
    os.environ.setdefault(ADDRESS_VARIABLE, f"http://{host}:{reports_port}")
    if settings.store_at:
        os.environ[STORE_VARIABLE] = settings.store_at
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    for kind in ("SENSOR", "SCHEDULE"):
        os.environ.setdefault(f"DAGSTER_{kind}_GRPC_TIMEOUT_SECONDS", _TICK_SECONDS)
    about, hint = f"{url}, process {os.getpid()}", "open that address, or stop it first (Ctrl-C there)"
    with open_instance(settings) as instance, only_one(settings.dagster_home / "up.lock", about, hint):
        _check_port(host, port)
        _check_port(host, reports_port)
        note(f"web UI: {url}  (home {settings.home})")
        clear_dead_runs(instance, note)
        note(f"inbox:  {settings.inbox}  ({'watched' if settings.automation else 'automation is off'})")
        with tempfile.TemporaryDirectory(prefix="virnuc-") as folder:
            reports = [str(settings.reports), host, str(reports_port)]
            parts = [*services(Path(folder), host, port), report_service(reports)]
            supervise(parts, note, look_after=lambda: _clear_dead_runs(instance))
    note("stopped")
    return 0


def _clear_dead_runs(instance: Any) -> None:
    """Mark runs failed that died without anyone being told, so that their slots are free again.

    Dagster's code server does that itself, but the thread that does ends for good at the first error, such as a full
    disk: the run would count as started, and every later one wait for it, until `virnuc up` is started anew.
    """
    from virnuc_dagster.instance import clear_dead_runs

    try:
        clear_dead_runs(instance, note)
    except Exception as error:  # whatever it is, the next look may succeed
        with contextlib.suppress(OSError):  # this text, too, may go to a full disk
            note(f"dead runs could not be looked for: {error}")


def services(folder: Path, host: str, port: int) -> list[Any]:
    """The three processes, joined by a socket in `folder`."""
    from virnuc_dagster.supervisor import Service

    socket_path, workspace = folder / "code.sock", folder / "workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server:\n      socket: {socket_path}\n      location_name: {MODULE}\n")
    python = sys.executable
    common = ["--log-level", "warning"]
    return [
        Service(
            "code server",
            [python, "-m", "dagster", "code-server", "start", "-m", MODULE, "--socket", str(socket_path), *common],
            listens_on=socket_path,
        ),
        Service(
            "web server",
            [python, "-m", "dagster_webserver", "-w", str(workspace), "-h", host, "-p", str(port),
             "--dagster-log-level", "warning"],
        ),
        Service("daemon", [python, "-m", "dagster._daemon", "run", "-w", str(workspace), *common]),
    ]  # fmt: skip


def report_service(arguments: list[str]) -> Any:
    """The process that the UI's links to reports lead to."""
    from virnuc_dagster.supervisor import Service

    return Service("report server", [sys.executable, "-m", "virnuc_dagster.report_server", *arguments])


def note(text: str) -> None:
    """Tell the user."""
    click.echo(text, err=True)


def _check_port(host: str, port: int) -> None:
    """Say now that a port is taken, not from within the web server."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another --port, or stop what runs there"
        ) from error
