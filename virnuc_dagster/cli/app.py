"""The command group, its common flags, and the one place where errors become exit codes.

0 done · 1 error · 2 usage · 3 damaged or incompatible checkpoint · 4 out of memory · 5 no space · 129, 130, 143
interrupted.
"""

import gc
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

import click

from virnuc_dagster import __version__
from virnuc_dagster.cli.batches import batches
from virnuc_dagster.cli.checkpoints import checkpoints
from virnuc_dagster.cli.completion import completion
from virnuc_dagster.cli.doctor import doctor
from virnuc_dagster.cli.evaluate import evaluate
from virnuc_dagster.cli.export import export
from virnuc_dagster.cli.models import models
from virnuc_dagster.cli.plan import plan
from virnuc_dagster.cli.predict import predict
from virnuc_dagster.cli.signals import Interrupted
from virnuc_dagster.cli.train import train
from virnuc_dagster.cli.up import up
from virnuc_dagster.errors import NO_SPACE, NoSpaceError, VirnucError
from virnuc_dagster.orchestration.database import database_refusal, is_out_of_space

#: New objects between two looks for garbage.
_GARBAGE_OBJECTS = 50_000
_EXAMPLES = """\b
Examples:
  virnuc predict contigs.fasta --output results
  virnuc plan contigs.fasta      # how many shards, bytes and hours?
  virnuc up                      # the web UI on what was computed
  virnuc batches list            # what this home holds
  virnuc checkpoints validate    # is all of it whole?
  virnuc evaluate genomes.fasta labels.tsv     # how good is a bundle on what I know?
  virnuc doctor                  # what this machine can do
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="virnuc")
@click.option("--traceback", "with_traceback", is_flag=True, help="With an error, also show where it came from.")
@click.pass_obj
def virnuc(wanted: dict[str, bool], with_traceback: bool) -> None:
    """Find the viral sequences in a batch (VirNucPro on Dagster)."""
    wanted["traceback"] = with_traceback


for command in (predict, plan, up, batches, export, checkpoints, models, train, evaluate, doctor, completion):
    virnuc.add_command(command)


def main(argv: Sequence[str] | None = None, stderr: TextIO | None = None) -> int:
    """Run a command line and return its exit code; nothing is raised for what a user can cause.

    Args:
        argv: Arguments without the program's name; `sys.argv` if None.
        stderr: Where errors are written.
    """
    stderr = stderr or sys.stderr
    wanted = {"traceback": False}
    try:
        code = virnuc.main(
            list(argv) if argv is not None else None, prog_name="virnuc", standalone_mode=False, obj=wanted
        )
    except click.exceptions.Exit as exit_request:
        return int(exit_request.exit_code)
    except click.ClickException as error:
        error.show(stderr)
        return error.exit_code
    except Interrupted as error:
        print(f"interrupted by {error.name}; what is finished is kept: run the same command to go on", file=stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return 130
    except VirnucError as error:
        if wanted["traceback"]:
            traceback.print_exception(error, file=stderr)
        print(f"error: {error}", file=stderr)
        return error.exit_code
    except MemoryError:
        print("error: out of memory\n  -> use a smaller --token-budget or --shard-size", file=stderr)
        return 4
    except BrokenPipeError:
        return 1
    except OSError as error:
        if wanted["traceback"]:
            traceback.print_exception(error, file=stderr)
        no_space = error.errno in NO_SPACE
        hint = (
            "free some space" if no_space else "the operating system refused this: check the path and its permissions"
        )
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}\n  -> {hint}", file=stderr)
        return NoSpaceError.exit_code if no_space else 1
    except Exception as error:
        if said := _postgres_error(error):
            if wanted["traceback"]:
                traceback.print_exception(error, file=stderr)
            hint = "what is committed is kept: once Postgres answers, run the same command to go on"
            print(f"error: Postgres: {said}\n  -> {hint}", file=stderr)
            return 1
        if not (refused := database_refusal(error)):
            raise  # a bug
        if wanted["traceback"]:
            traceback.print_exception(error, file=stderr)
        hint = "is the disk full, or broken? free some space, then run the same command to go on"
        print(f"error: a database of this home cannot be written: {refused}\n  -> {hint}", file=stderr)
        return NoSpaceError.exit_code if is_out_of_space(refused) else 1
    return int(code or 0)


def _postgres_error(error: BaseException) -> str:
    """Find what Postgres said; asked only where Postgres is in use."""
    if "psycopg2" not in sys.modules:
        return ""
    from virnuc_dagster.orchestration.instance import postgres_error

    return postgres_error(error)


def run() -> None:
    """Run the `virnuc` script."""
    # Importing Dagster makes a great many objects that stay. With Python's own threshold, 700, they are looked through
    # over and over (`bench/startup.py`).
    gc.set_threshold(_GARBAGE_OBJECTS)
    sys.exit(main())
