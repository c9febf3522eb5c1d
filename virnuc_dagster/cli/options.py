"""Flags that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from virnuc_dagster.compute import ComputeChoices
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.home.settings import Settings

_EMPTY = "an empty name: is a shell variable not set?"


class PathType(click.Path):
    """A path; an empty one, as a shell gives for a variable that is not set, is no name for the working folder."""

    def __init__(self, **wanted: bool) -> None:
        super().__init__(path_type=Path, **wanted)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make a path of an argument's text."""
        if value == "":
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)


def refuse_empty(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Refuse an empty name, of those that may be more than a path: one input or several, a URL, `-`."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter(_EMPTY, context, parameter)
    return value


_HOME = click.option("--home", type=PathType(file_okay=False), help="Folder of all results [default: .virnuc].")
_STORE = click.option(
    "--store", callback=refuse_empty, help="Checkpoint store: a folder or s3://bucket/prefix [default: in the home]."
)
_OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace files that are in the way; inputs of the call are never replaced."
)
_END_MARK = click.option(
    "--allow-missing-end-mark",
    is_flag=True,
    default=None,
    help="Read BGZF files (bgzip) without their end mark, which are probably truncated.",
)


def complete_batch(context: click.Context, _: click.Parameter, begin: str) -> list[str]:
    """List batch keys that a shell may complete to; nothing if the home cannot be read."""
    try:
        store = Settings.read(home=context.params.get("home"), store=context.params.get("store")).store
        if isinstance(store, str):
            return []  # a key press should not wait for a network
        return sorted(path.name for path in (store / "sequences").iterdir() if path.name.startswith(begin))
    except (VirnucError, OSError):
        return []


def batch_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `BATCH`, completed by the shell."""
    return click.argument("batch", shell_complete=complete_batch)(function)


def home_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--home` and `--store`."""
    return _HOME(_STORE(function))


def compute_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--bundle`, and a flag for each of `ComputeChoices`."""
    fields = {"bundle": Settings.model_fields["bundle"], **ComputeChoices.model_fields}
    for name, field in reversed(fields.items()):
        words = get_args(field.annotation)  # of a Literal
        kind = click.Choice(words) if words else field.annotation
        told = f"{field.description} [default: {field.default}]."
        function = click.option(f"--{name.replace('_', '-')}", type=kind, help=told)(function)
    return function


def overwrite_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--overwrite`."""
    return _OVERWRITE(function)


def reading_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--allow-missing-end-mark`, of every command that reads sequence files."""
    return _END_MARK(function)
