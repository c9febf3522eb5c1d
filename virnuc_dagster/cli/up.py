"""`virnuc up`: the web UI and the daemon on this home's Dagster instance."""

import os
import sys
from typing import Any

import click

from virnuc_dagster.cli.options import home_option
from virnuc_dagster.settings import HOME_VARIABLE, Settings


@click.command(
    epilog="""\b
Examples:
  virnuc up                       # http://127.0.0.1:3000
  virnuc up --port 3001 --home /data/virnuc"""
)
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the UI has no log-in.")
@home_option
def up(port: int, host: str, **flags: Any) -> None:
    """Open the web UI with every batch computed so far (Ctrl-C ends it)."""
    from virnuc_dagster.instance import prepare_instance

    settings = Settings.read(**flags)
    prepare_instance(settings)
    os.environ |= {"DAGSTER_HOME": str(settings.dagster_home), HOME_VARIABLE: str(settings.home)}
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    click.echo(f"web UI: http://{host}:{port}  (home {settings.home})", err=True)
    arguments = ["dev", "-m", "virnuc_dagster.definitions", "-h", host, "-p", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "dagster", *arguments])  # noqa: S606 - our own interpreter
