"""Result files that are written row by row, all of them in one pass over the sequences, within bounded memory.

Each file appears under its name when it is complete and synced; until then readers see the earlier one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from virnuc_dagster.errors import typed_os_errors
from virnuc_dagster.files import rename, temporary_file


@dataclass(frozen=True)
class Output:
    """A file that is being filled.

    Attributes:
        target: What it is to become.
        file: Where its bytes go.
    """

    target: Path
    file: BinaryIO

    def write(self, text: str) -> None:
        """Append some text.

        Raises:
            NoSpaceError, StorageError: The disk refused; the message names this file.
        """
        data = text.encode()
        with typed_os_errors(self.target, lambda: len(data)):
            self.file.write(data)


def write_together(targets: Mapping[str, Path], fill: Callable[[Mapping[str, Output]], None]) -> None:
    """Open several files, have them filled, and put each in its place.

    Args:
        targets: Name -> file.
        fill: Writes all of them, in any order; if it raises, none is replaced.
    """
    _open(list(targets.items()), {}, fill)


def _open(
    left: list[tuple[str, Path]], opened: dict[str, Output], fill: Callable[[Mapping[str, Output]], None]
) -> None:
    if not left:
        fill(opened)
        return
    (name, target), *rest = left
    # The inner files are filled, synced and renamed while this one is open: `temporary_file` cleans up after each.
    with temporary_file(target, lambda file: _open(rest, opened | {name: Output(target, file)}, fill)) as path:
        rename(path, target)
