"""The result tables: columns, row order and number format, each in one place.

Columns and their meaning: docs/results.md. The two files of the original program keep its format (method.md §5).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from virnuc_dagster.classify.consensus import FrameScore, SequenceScore, Source, Verdict
from virnuc_dagster.report import paths
from virnuc_dagster.report.outputs import Output
from virnuc_dagster.report.reading import MISSING

if TYPE_CHECKING:
    from virnuc_dagster.sequences.translation import KnownShares

COLUMNS: dict[str, tuple[str, ...]] = {
    paths.SEQUENCES: (
        "sequence_id", "length", "windows", "scored_windows", "fallback_windows", "score", "verdict", "unknown_bases",
        "reason",
    ),
    paths.WINDOWS: (
        "sequence_id", "window_id", "start", "end", "frames", "score_others", "score_virus", "is_virus", "source",
        "known", "counted",
    ),
    paths.FRAMES: (
        "sequence_id", "window_id", "frame", "strand", "start", "end", "score_others", "score_virus", "is_virus",
        "known_codons",
    ),
    paths.FRAMES_ORIGINAL: ("Sequence_ID", "Prediction", "score1", "score2"),
    paths.WINDOWS_ORIGINAL: ("Modified_ID", "Is_Virus"),
}  # fmt: skip
_FASTA_WIDTH = 60


def number(value: float | None) -> str:
    """Write a probability or a share as the shortest text that reads back as the same float32; `NA` for none."""
    return MISSING if value is None else str(np.float32(value))


def score(value: float | None) -> str:
    """Write a sequence score with six decimals; `NA` if nothing was scored."""
    return MISSING if value is None else f"{value:.6f}"


def share(value: float) -> str:
    """Write a known share with four decimals, cut and not rounded: what is shown as a half is at least a half."""
    return f"{int(value * 10_000 + 1e-6) / 10_000:.4f}"


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Write rows as tab-separated text."""
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def sequence_row(sequence: SequenceScore) -> tuple[object, ...]:
    """Make the row of one input sequence."""
    return (
        sequence.id, sequence.length, len(sequence.windows), sequence.scored_windows, sequence.fallback_windows,
        score(sequence.score), sequence.verdict.value,
        number(sequence.unknown_bases / sequence.length if sequence.length else None), sequence.reason or MISSING,
    )  # fmt: skip


def window_rows(sequence: SequenceScore) -> Iterator[tuple[object, ...]]:
    """Yield the windows of a sequence, in order; `start` counts from 0, `end` is one past the last base."""
    for w in sequence.windows:
        is_virus = MISSING if w.is_virus is None else w.is_virus
        yield (
            sequence.id, w.id, w.start, w.end, w.frames, number(w.others), number(w.virus), is_virus, w.source.value,
            share(w.known), w.counts(sequence.known_share),
        )  # fmt: skip


def frame_rows(
    sequence_id: str,
    spans: Sequence[Sequence[int]],
    frames: Iterable[FrameScore],
    known: "KnownShares | None" = None,
) -> Iterator[tuple[object, ...]]:
    """Yield the scored frames of a sequence; `start` and `end` are of its codons on the forward strand.

    Args:
        sequence_id: Id of the sequence.
        spans: (start, end) of its windows.
        frames: Its scored frames, in order.
        known: What is known of its windows; None if every letter is.
    """
    for frame in frames:
        place = int(frame.window_id.rsplit("_", 1)[1]) - 1
        first, last = spans[place]
        name, offset = frame.id[-2:], int(frame.id[-1]) - 1
        span = (last - first - offset) // 3 * 3
        start = first + offset if name[0] == "F" else last - offset - span
        yield (
            sequence_id, frame.window_id, name, "+" if name[0] == "F" else "-", start, start + span,
            number(frame.others), number(frame.virus), frame.is_virus,
            share(known.codons[place, frame.index] if known else 1.0),
        )  # fmt: skip


def original_frame_rows(frames: Iterable[FrameScore]) -> Iterator[tuple[object, ...]]:
    """Yield the original's table: a row a scored frame, in input order."""
    for f in frames:
        yield f.id, "virus" if f.is_virus else "others", number(f.others), number(f.virus)


def fasta(description: str, text: str) -> str:
    """Write one record with its whole header."""
    return f">{description}\n" + "".join(f"{text[i : i + _FASTA_WIDTH]}\n" for i in range(0, len(text), _FASTA_WIDTH))


class Tables:
    """The files of `paths.TABLES` while they are written.

    Args:
        outputs: Name -> open file.
    """

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        self._outputs = outputs
        for name, output in outputs.items():
            if name in COLUMNS:
                output.write(lines([COLUMNS[name]]))

    def add_frames(
        self,
        sequence_id: str,
        spans: Sequence[Sequence[int]],
        frames: Sequence[FrameScore],
        known: "KnownShares | None" = None,
    ) -> None:
        """Write the scored frames of one sequence."""
        if frames:
            self._outputs[paths.FRAMES].write(lines(frame_rows(sequence_id, spans, frames, known)))
            self._outputs[paths.FRAMES_ORIGINAL].write(lines(original_frame_rows(frames)))

    def add_sequence(self, sequence: SequenceScore, description: str, text: str) -> None:
        """Write one sequence and its windows; if it is viral, also its bases under its whole header."""
        self._outputs[paths.SEQUENCES].write(lines([sequence_row(sequence)]))
        self._outputs[paths.WINDOWS].write(lines(window_rows(sequence)))
        if sequence.verdict is Verdict.VIRAL:
            self._outputs[paths.VIRAL_FASTA].write(fasta(description, text))


class OriginalWindows:
    """The original's table of windows with scored frames: in lexicographic order, so kept until all are known."""

    def __init__(self) -> None:
        self._windows: list[tuple[str, bool]] = []

    def add(self, sequence: SequenceScore) -> None:
        """Take the windows of one sequence."""
        self._windows += [(w.id, bool(w.is_virus)) for w in sequence.windows if w.source is Source.FRAME]

    def text(self) -> str:
        """Return the whole file."""
        return lines([COLUMNS[paths.WINDOWS_ORIGINAL], *sorted(self._windows)])
