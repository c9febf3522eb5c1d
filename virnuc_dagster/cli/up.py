"""`virnuc up`: the web UI, the daemon and the reports of this home's Dagster instance, until Ctrl-C."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.cli.options import home_option
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.home.settings import HOME_VARIABLE, STORE_VARIABLE, Settings
from virnuc_dagster.services.report_server import ADDRESS_VARIABLE

MODULE = "virnuc_dagster.definitions"
#: A tick of a sensor or schedule may take this long; a large survey needs more than Dagster's 60 seconds.
_TICK_SECONDS = "300"
_STOP_SECONDS = 15.0


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
    from virnuc_dagster.home.binding import open_bound_store
    from virnuc_dagster.home.locks import only_one
    from virnuc_dagster.home.places import private_folder
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.orchestration.instance import clear_dead_runs, open_instance
    from virnuc_dagster.services.supervisor import supervise

    settings = Settings.read(**flags)
    open_bundle(settings.bundle)  # one that is not there is said now, not by every run
    open_bound_store(settings)
    url, reports_port = f"http://{host}:{port}", port + 1
    about, hint = f"{url}, process {os.getpid()}", "open that address, or stop it first (Ctrl-C there)"
    with open_instance(settings) as instance, only_one(settings.dagster_home / "up.lock", about, hint):
        _check_port(host, port, "the UI")
        _check_port(host, reports_port, "the reports, which is one above --port")
        note(f"web UI: {url}  (home {settings.home})")
        clear_dead_runs(instance, note)
        note(f"inbox:  {settings.inbox}  ({'watched' if settings.automation else 'automation is off'})")
        with private_folder() as folder:
            env = environment(settings, folder, f"http://{host}:{reports_port}")
            reports = report_service([str(settings.reports), host, str(reports_port)], env)
            *servers, daemon = services(folder, host, port, env)
            supervise([*servers, daemon, reports], note, look_after=Watch(instance, settings, daemon).look)
    note("stopped")
    return 0


class Watch:
    """What `virnuc up` looks after besides its services: runs that died, and a clock that is set back.

    Args:
        instance: Has the runs and the sensors' states.
        settings: Where the home is.
        daemon: The service that evaluates sensors and schedules.
    """

    def __init__(self, instance: Any, settings: Settings, daemon: Any) -> None:
        from virnuc_dagster.orchestration.clock import Clock

        self.instance, self.settings, self.daemon = instance, settings, daemon
        self._clock = Clock()
        self._set_right()  # the clock may have been set back while nothing ran

    def look(self) -> None:
        """Look once; whatever goes wrong, the next look may succeed."""
        if self._clock.set_back():
            started = self.daemon.process is not None
            self.daemon.stop(_STOP_SECONDS)  # it remembers when schedules come next
            self._set_right()
            if started:  # else its turn comes, and a second one must not be there
                self.daemon.start()
        _clear_dead_runs(self.instance)

    def _set_right(self) -> None:
        from virnuc_dagster.home.journal import Journal
        from virnuc_dagster.orchestration.clock import in_words, set_right

        with _told("times in the future could not be looked for"):
            if seconds := set_right(self.instance, self.settings.home):
                note(
                    f"the clock was set back: sensors, schedules and waiting files had times up to {in_words(seconds)} "
                    "ahead and would have waited for them; they go on from now"
                )
                Journal(folder=str(self.settings.logs)).write("clock", set_back_seconds=round(seconds))


def _clear_dead_runs(instance: Any) -> None:
    """Mark runs failed that died without anyone being told, so that their slots are free again.

    Dagster's code server does that itself, but the thread that does ends for good at the first error, such as a full
    disk: the run would count as started, and every later one wait for it, until `virnuc up` is started anew.
    """
    from virnuc_dagster.orchestration.instance import clear_dead_runs

    with _told("dead runs could not be looked for"):
        clear_dead_runs(instance, note)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what went wrong in the body, and go on."""
    try:
        yield
    except Exception as error:
        note(f"{what}: {error}")


def environment(settings: Settings, folder: Path, reports_url: str) -> dict[str, str]:
    """Make the environment of the services, and of the runs that they start.

    Args:
        settings: Where things live.
        folder: A private folder with nothing to import.
        reports_url: The address of the report server.
    """
    env = dict(os.environ)
    env |= {"DAGSTER_HOME": str(settings.dagster_home), HOME_VARIABLE: str(settings.home)}
    if settings.store_at:
        env[STORE_VARIABLE] = settings.store_at
    env.setdefault(ADDRESS_VARIABLE, reports_url)
    env.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    for kind in ("SENSOR", "SCHEDULE"):
        env.setdefault(f"DAGSTER_{kind}_GRPC_TIMEOUT_SECONDS", _TICK_SECONDS)
    # Nothing is imported from the working folder, into which anyone may have put a `gql.py`: neither by Python itself
    # nor by an empty part of PYTHONPATH. Dagster drops the first part of the path while it loads definitions.
    own = [part for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]
    env |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(folder), *own])}
    return env | {"TMPDIR": str(folder.parent)}  # the code server makes a socket of its own there


def services(folder: Path, host: str, port: int, env: Mapping[str, str]) -> list[Any]:
    """List the three processes, joined by a socket in `folder`; the daemon is the last."""
    from virnuc_dagster.services.supervisor import Service

    socket_path, workspace = folder / "code.sock", folder / "workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server:\n      socket: {socket_path}\n      location_name: {MODULE}\n")
    python = sys.executable
    common = ["--log-level", "warning"]
    return [
        Service(
            "code server",
            [python, "-m", "dagster", "code-server", "start", "-m", MODULE, "--socket", str(socket_path),
             "--working-directory", str(folder), *common],  # else it imports from the working folder
            listens_on=socket_path,
            environment=env,
        ),
        Service(
            "web server",
            [python, "-m", "dagster_webserver", "-w", str(workspace), "-h", host, "-p", str(port),
             "--dagster-log-level", "warning"],
            environment=env,
        ),
        Service("daemon", [python, "-m", "dagster._daemon", "run", "-w", str(workspace), *common], environment=env),
    ]  # fmt: skip


def report_service(arguments: list[str], env: Mapping[str, str]) -> Any:
    """Describe the process that the UI's links to reports lead to."""
    from virnuc_dagster.services.supervisor import Service

    command = [sys.executable, "-m", "virnuc_dagster.services.report_server", *arguments]
    return Service("report server", command, environment=env)


def note(text: str) -> None:
    """Tell the user, if there is still a terminal, and a disk that takes the text."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _check_port(host: str, port: int, whose: str) -> None:
    """Say now that a port is taken, not from within the server that wants it."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}, the port of {whose}: {error.strerror}",
            hint="choose another --port, or stop what runs there",
        ) from error
