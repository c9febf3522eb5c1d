"""Figures of one part of the data, the same as those of `virnuc evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from virnuc_dagster.classify.consensus import Source, WindowScore, score_sequence
from virnuc_dagster.evaluation.results import floor_figures
from virnuc_dagster.evaluation.sections import Rows, section, verdicts
from virnuc_dagster.sequences.labels import Label
from virnuc_dagster.sequences.translation import unknown_bases
from virnuc_dagster.training.data import Data
from virnuc_dagster.training.finish import sequence_scores
from virnuc_dagster.training.records import Record

REPLICATES = 200
"""Of the group bootstrap."""
_POINTS = ("roc", "reliability")


def measure_part(
    records: Sequence[Record], windows: Sequence[list[WindowScore]], roll_up: str, thresholds: dict[str, float]
) -> dict[str, Any]:
    """Measure scored windows of labelled records.

    Args:
        records: Records.
        windows: Windows of each.
        roll_up: How they become a sequence's score.
        thresholds: What makes it a verdict.

    Returns:
        `open_windows`, `no_frame_windows`, `all_windows` and `sequences`, each as `evaluation.sections.section` makes
        it, without the points of curves; that of the sequences with `verdicts`.
    """
    flat = [window for mine in windows for window in mine]
    record = np.repeat(np.arange(len(records)), [len(mine) for mine in windows])
    known_share = thresholds["known_share"]
    of_windows = _rows(
        [np.nan if w.score is None or not w.counts(known_share) else w.score for w in flat], records, record
    )
    is_open = np.array([window.source is Source.FRAME for window in flat], dtype=bool)
    of_sequences = _rows(sequence_scores(windows, roll_up), records, np.arange(len(records)))
    parts = {
        "open_windows": (of_windows.where(is_open), of_windows),
        "no_frame_windows": (of_windows.where(~is_open), of_windows),
        "all_windows": (of_windows, of_windows),
        "sequences": (of_sequences, of_sequences),
    }
    found = {name: section(rows, everything, replicates=REPLICATES) for name, (rows, everything) in parts.items()}
    for figures in found.values():
        for name in _POINTS:
            del figures[name]
    called = [
        score_sequence(
            r.id,
            len(r.sequence),
            mine,
            viral=thresholds["viral"],
            non_viral=thresholds["non_viral"],
            scored_share=thresholds["scored_share"],
            known_share=known_share,
            known_bases=int(thresholds["known_bases"]),
            roll_up=roll_up,
            unknown_bases=unknown_bases(r.sequence),
        ).verdict.value
        for r, mine in zip(records, windows, strict=True)
    ]
    found["sequences"]["verdicts"] = verdicts(of_sequences, called)
    return found


def floor_of(data: Data, window_length: int) -> dict[str, Any]:
    """Measure what a plain 6-mer model, fitted on everything but `val`, reaches on `val`, by section."""
    return floor_figures(_labelled((*data.fit, *data.dev)), _labelled(data.val), window_length)


def _labelled(records: Sequence[Record]) -> list[tuple[bytes, Label]]:
    return [(r.sequence, Label(r.id, r.is_virus, r.category, r.group, r.split)) for r in records]


def _rows(score: Sequence[float] | np.ndarray[Any, Any], records: Sequence[Record], of: np.ndarray[Any, Any]) -> Rows:
    columns = (np.array([getattr(r, name) for r in records])[of] for name in ("is_virus", "category", "group"))
    return Rows(np.asarray(score, dtype=np.float64), *columns)
