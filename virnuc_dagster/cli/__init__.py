"""`virnuc`, the command line: a file a command, none of them computing anything itself."""

from virnuc_dagster.cli.app import main, run

__all__ = ["main", "run"]
