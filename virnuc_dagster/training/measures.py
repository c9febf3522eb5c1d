"""Figures of one part of the data: windows with frames, without, all, and sequences, by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from virnuc_dagster.classify.consensus import Source, WindowScore
from virnuc_dagster.classify.metrics import measure
from virnuc_dagster.training.finish import sequence_scores
from virnuc_dagster.training.records import Record


def measure_part(
    records: Sequence[Record], windows: Sequence[Sequence[WindowScore]], roll_up: str, thresholds: dict[str, float]
) -> dict[str, Any]:
    """Measure scored windows of labelled records."""
    flat = [(i, w.score, w.source) for i, mine in enumerate(windows) for w in mine if w.score is not None]
    record = np.array([i for i, _, _ in flat])
    score = np.array([s for _, s, _ in flat])
    frame = np.array([source is Source.FRAME for _, _, source in flat])
    truth = np.array([r.is_virus for r in records])
    kinds = np.array([r.kind for r in records])
    seq = sequence_scores(windows, roll_up)
    known = np.flatnonzero(~np.isnan(seq))
    out = {}
    for name, s, rec in (
        ("open_windows", score[frame], record[frame]),
        ("no_frame_windows", score[~frame], record[~frame]),
        ("all_windows", score, record),
        ("sequences", seq[known], known),
    ):
        out[name] = measure(s, truth[rec]) | {
            "by_category": {
                kind: {
                    "n": int((kinds[rec] == kind).sum()),
                    "accuracy": float(((s >= 0.5) == truth[rec])[kinds[rec] == kind].mean()),
                }
                for kind in np.unique(kinds[rec])
            }
        }
    return out
