"""The inputs of a call as its user named them: files, pipes, standard input."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from virnuc_dagster.errors import InputError, VirnucError, typed_os_errors
from virnuc_dagster.sequences.measured import InputFacts, Measured, measured

STDIN = "-"
Input = str | os.PathLike[str]


@dataclass
class Source:
    """One input.

    Attributes:
        given: As the user wrote it; `-` is standard input.
        name: What errors call it, and what its batch's key is made of: the path as given, or a name for standard input.
        file: The file to read; None for standard input.
        facts: Size and digest, known once it was read. They stay if they are known before: of the file that `file` was
            made from.
    """

    given: str
    name: str
    file: Path | None
    facts: InputFacts = field(default_factory=lambda: InputFacts(""))

    @classmethod
    def of(cls, given: str, stdin_name: str = "stdin") -> "Source":
        """Find the input that an argument names."""
        if given == STDIN:
            return cls(given, stdin_name, None, InputFacts(given))
        return cls(given, given, Path(given), InputFacts(given))

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the input, to be read once; `facts` are known afterwards, also of one that is refused.

        Raises:
            InputError: It cannot be opened.
        """
        with measured(self.file or _standard_input(), self.name) as stream:
            found = cast(Measured, stream)
            known = self.facts.sha256 is not None
            try:
                yield stream
            except VirnucError:
                self.facts = self.facts if known else found.facts_of_refused(self.given)
                raise
            self.facts = self.facts if known else found.facts(self.given)

    def as_json(self) -> dict[str, Any]:
        """Return `path` as given, `bytes` and `sha256`; None where they could not be told."""
        return asdict(self.facts)


def as_source(given: Source | Input) -> Source:
    """Return an input as what it is read through."""
    return given if isinstance(given, Source) else Source.of(os.fspath(given))


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal", hint="pipe a sequence file in, or name a file", path=STDIN)
    return sys.stdin.buffer


@contextmanager
def readable_twice(path: Path) -> Iterator[Path]:
    """Give a file that can be read more than once: the file itself, or a private copy of a pipe while needed."""
    if path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="virnuc-input-") as folder:
        copy = Path(folder) / (path.name or "input")
        with path.open("rb") as source, typed_os_errors(copy), copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield copy
