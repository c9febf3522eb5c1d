"""The result tables: columns, row order and number format, each in one place.

Columns and their meaning: docs/results.md. The two files of the original program keep its format (method.md §5).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from virnuc_dagster.classify.consensus import FrameScore, SequenceScore, Source, Verdict

SEQUENCE_COLUMNS = ("sequence_id", "length", "windows", "scored_windows", "fallback_windows", "score", "verdict")
WINDOW_COLUMNS = (
    "sequence_id", "window_id", "start", "end", "frames", "score_others", "score_virus", "is_virus", "source",
)  # fmt: skip
MISSING = "NA"
_FASTA_WIDTH = 60


def number(value: float | None) -> str:
    """A probability as the shortest text that reads back as the same float32; `NA` if there is none."""
    return MISSING if value is None else str(np.float32(value))


def score(value: float | None) -> str:
    """A sequence score with six decimals; `NA` if nothing was scored."""
    return MISSING if value is None else f"{value:.6f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def sequences_tsv(sequences: Iterable[SequenceScore]) -> bytes:
    """A row an input sequence, in input order."""
    return _table(
        SEQUENCE_COLUMNS,
        (
            (s.id, s.length, len(s.windows), s.scored_windows, s.fallback_windows, score(s.score), s.verdict.value)
            for s in sequences
        ),
    )


def windows_tsv(sequences: Iterable[SequenceScore]) -> bytes:
    """A row a window, in input order; `start` counts from 0, `end` is one past the last base."""
    return _table(
        WINDOW_COLUMNS,
        (
            (
                s.id, w.id, w.start, w.end, w.frames, number(w.others), number(w.virus),
                MISSING if w.is_virus is None else w.is_virus, w.source.value,
            )
            for s in sequences
            for w in s.windows
        ),
    )  # fmt: skip


def prediction_results(frames: Iterable[FrameScore]) -> bytes:
    """The original's table: a row a scored frame, in input order."""
    return _table(
        ("Sequence_ID", "Prediction", "score1", "score2"),
        ((f.id, "virus" if f.is_virus else "others", number(f.others), number(f.virus)) for f in frames),
    )


def highest_score(sequences: Iterable[SequenceScore]) -> bytes:
    """The original's table: a row a window with scored frames, in lexicographic order of the window ids."""
    windows = (w for s in sequences for w in s.windows if w.source is Source.FRAME)
    return _table(("Modified_ID", "Is_Virus"), ((w.id, w.is_virus) for w in sorted(windows, key=lambda w: w.id)))


def viral_fasta(sequences: Iterable[SequenceScore], descriptions: Sequence[str], texts: Sequence[str]) -> bytes:
    """The viral sequences with their whole header, in input order.

    Args:
        sequences: All sequences.
        descriptions: Header of each.
        texts: Bases of each.
    """
    lines = []
    for scored, description, text in zip(sequences, descriptions, texts, strict=True):
        if scored.verdict is Verdict.VIRAL:
            lines.append(f">{description}")
            lines += [text[i : i + _FASTA_WIDTH] for i in range(0, len(text), _FASTA_WIDTH)]
    return "".join(line + "\n" for line in lines).encode()


def summary(batch: str, sequences: Sequence[SequenceScore], frames: int, scored_frames: int) -> dict[str, Any]:
    """Counts of a batch; nothing in it varies between calls."""
    verdicts = Counter(s.verdict for s in sequences)
    return {
        "batch": batch,
        "complete": frames == scored_frames,
        "sequences": len(sequences),
        "bases": sum(s.length for s in sequences),
        "windows": sum(len(s.windows) for s in sequences),
        "scored_windows": sum(s.scored_windows for s in sequences),
        "fallback_windows": sum(s.fallback_windows for s in sequences),
        "frames": frames,
        "scored_frames": scored_frames,
        "verdicts": {v.value: verdicts[v] for v in Verdict if v is not Verdict.INCOMPLETE or verdicts[v]},
    }
