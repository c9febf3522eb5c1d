"""Flags that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from virnuc_dagster.errors import VirnucError

_HOME = click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="Folder of all results [default: .virnuc]."
)
_COMPUTE = (
    click.option("--bundle", help="Model bundle: a packaged name or a folder [default: mini]."),
    click.option("--device", help="auto, cpu, cuda or cuda:N [default: auto]."),
    click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), help="[default: float32]"),
    click.option("--threads", type=int, help="CPU threads [default: 0, one a physical core]."),
    click.option("--token-budget", type=int, help="Tokens an encoder is fed at once; less needs less memory."),
)


def complete_batch(context: click.Context, _: click.Parameter, begin: str) -> list[str]:
    """Batch keys that a shell may complete to; nothing if the home cannot be read."""
    from virnuc_dagster.settings import Settings

    try:
        folder = Settings.read(home=context.params.get("home")).store / "sequences"
        return sorted(path.name for path in folder.iterdir() if path.name.startswith(begin))
    except (VirnucError, OSError):
        return []


def batch_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """`BATCH`, completed by the shell."""
    return click.argument("batch", shell_complete=complete_batch)(function)


def home_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--home`."""
    return _HOME(function)


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--bundle`, `--device`, `--precision`, `--threads`, `--token-budget`."""
    for option in reversed(_COMPUTE):
        function = option(function)
    return function
