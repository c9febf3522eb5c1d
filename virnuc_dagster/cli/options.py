"""Flags that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

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


def home_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--home`."""
    return _HOME(function)


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--bundle`, `--device`, `--precision`, `--threads`, `--token-budget`."""
    for option in reversed(_COMPUTE):
        function = option(function)
    return function
