"""What a call hands back of one input: which batch it is, where its report is, its counts and verdicts, its errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from virnuc_dagster.errors import VirnucError
from virnuc_dagster.report import paths
from virnuc_dagster.report.reading import MISSING, read_lines
from virnuc_dagster.sequences.measured import InputFacts

State = Literal["complete", "incomplete", "failed"]


@dataclass(frozen=True)
class SequenceVerdict:
    """A row of `sequences.tsv`, see docs/results.md.

    Attributes:
        id: Of the sequence.
        length: In bases.
        windows: How many it was cut into.
        scored_windows: Of these, the ones with a scored frame.
        fallback_windows: Of these, the ones scored by their composition.
        score: P(virus), 0 to 1; None if nothing was scored.
        verdict: `viral`, `non-viral`, `uncertain`, `no open frame`, `too short` or `incomplete`.
        unknown_bases: Share of its bases that are no A, C, G or T; None of an empty sequence.
        reason: Why it is uncertain; empty if it is not.
    """

    id: str
    length: int
    windows: int
    scored_windows: int
    fallback_windows: int
    score: float | None
    verdict: str
    unknown_bases: float | None
    reason: str


@dataclass(frozen=True)
class BatchResult:
    """What became of one input.

    Attributes:
        input: Its path as given, size and digest.
        batch: Key of its batch; None if it could not be read.
        folder: Folder of its result files: the one asked for, or else that of the report in the home, whose files
            another call on the same batch may replace. None without a report.
        summary: Content of `summary.json`; empty without a report.
        run: What the call did (content of `run.json`); empty without a report.
        errors: What kept shards from being computed, or the input from having a report.
    """

    input: InputFacts
    batch: str | None = None
    folder: Path | None = None
    summary: Mapping[str, Any] = field(default_factory=dict, repr=False)
    run: dict[str, Any] = field(default_factory=dict, repr=False)
    errors: tuple[VirnucError, ...] = ()

    @property
    def state(self) -> State:
        """`complete`; `incomplete` if sequences have no verdict because shards failed; `failed` without a report."""
        if self.folder is None:
            return "failed"
        return "complete" if self.summary["complete"] else "incomplete"

    @property
    def error(self) -> VirnucError | None:
        """The first error; None if there was none."""
        return self.errors[0] if self.errors else None

    @property
    def verdicts(self) -> dict[str, int]:
        """Verdict -> number of sequences; empty without a report."""
        return dict(self.summary.get("verdicts", {}))

    def rows(self, name: str = paths.SEQUENCES) -> Iterator[dict[str, str]]:
        """Yield the rows of a table, such as `windows.tsv`, as texts by column name; none without a report."""
        if self.folder is None:
            return
        lines = read_lines(self.folder / name)
        names = next(lines)
        for cells in lines:
            yield dict(zip(names, cells, strict=True))

    def sequences(self) -> Iterator[SequenceVerdict]:
        """Yield the verdict of every input sequence, in input order; none without a report."""
        for row in self.rows():
            yield SequenceVerdict(
                id=row["sequence_id"],
                length=int(row["length"]),
                windows=int(row["windows"]),
                scored_windows=int(row["scored_windows"]),
                fallback_windows=int(row["fallback_windows"]),
                score=_number(row["score"]),
                verdict=row["verdict"],
                unknown_bases=_number(row["unknown_bases"]),
                reason="" if row["reason"] == MISSING else row["reason"],
            )


def _number(text: str) -> float | None:
    return None if text == MISSING else float(text)
