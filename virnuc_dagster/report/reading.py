"""Reading the result tables back, as the texts that stand in them."""

from collections.abc import Iterator
from pathlib import Path

MISSING = "NA"
"""Stands for what has no value."""


def read_lines(path: Path) -> Iterator[list[str]]:
    """Yield the cells of a tab-separated table line by line, the names of its columns first.

    A line ends with a line feed alone: an id may hold any other character that Python takes for a line's end.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n").split("\t")
