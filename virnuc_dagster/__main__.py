"""`python -m virnuc_dagster` is `virnuc`; it, too, imports nothing from the working folder."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # `-m` has put the working folder there

from virnuc_dagster.cli import run

run()
