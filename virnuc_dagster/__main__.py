"""`python -m virnuc_dagster` is `virnuc`."""

from virnuc_dagster.cli import run

run()
