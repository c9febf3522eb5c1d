"""Tables for people: fitted to a terminal, and never cut or coloured in a pipe or a file."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 100_000  # no cell is ever wrapped or cut where nobody looks at a width


def output_console() -> Console:
    """Open standard output anew, so that it follows a redirection; colours and wrapping on a terminal only."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH, no_color=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print rows in aligned columns.

    Args:
        headings: Names of the columns.
        rows: Cells; integers get thousands separators, None becomes a dash. Text is never taken for markup.
        numbers: Headings of columns that are aligned to the right.
    """
    console = output_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(_shown(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    console.file.write("".join(line.rstrip(" ") + "\n" for line in capture.get().split("\n")[:-1]))


def _shown(cell: object) -> str:
    if cell is None or cell == "":
        return "-"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def printable(text: str) -> str:
    """Make text that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def size_text(size: float) -> str:
    """Write a size for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
