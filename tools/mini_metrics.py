"""How good the mini model is: areas, roll-up to sequences, thresholds, and figures by category."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from mini_data import Frames
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


SCORED_SHARE = 0.1
"""Least share of scored windows for a call: no virus of val lies below .15 (the share is not used in the figures)."""


def auroc(score: Floats, truth: Bools) -> float:
    """Area under the ROC curve, ties counted half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive, negative = int(truth.sum()), int((~truth).sum())
    return float((rank[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def window_scores(frames: Frames, scores: Floats) -> dict[tuple[int, int], float]:
    """Score of each scored window (sequence, window): max score2 / (max score1 + max score2) over its frames."""
    best: dict[tuple[int, int], Floats] = {}
    for key, pair in zip(zip(frames.sequence.tolist(), frames.window.tolist(), strict=True), scores, strict=True):
        best[key] = np.maximum(best.get(key, pair), pair)
    return {key: float(pair[1] / pair.sum()) for key, pair in best.items()}


def sequence_scores(windows: dict[tuple[int, int], float]) -> dict[int, float]:
    """Score of each sequence with a scored window: the mean over its scored windows."""
    of: dict[int, list[float]] = defaultdict(list)
    for (sequence, _), score in windows.items():
        of[sequence].append(score)
    return {sequence: float(np.mean(scores)) for sequence, scores in sorted(of.items())}


def choose_thresholds(score: Floats, virus: Bools, right: float = 0.95, least: float = 0.2) -> dict[str, float]:
    """Thresholds at which `right` of the calls are right, were both classes equally frequent.

    Args:
        score: Sequence scores.
        virus: Truth of each.
        right: Wanted share of right calls; where it cannot be reached, the best threshold is taken.
        least: Share of its class that a call must reach, so that no threshold is chosen for a handful of sequences.

    Returns:
        `viral` and `non_viral`, the former the larger, and the fixed `scored_share`.
    """

    def correct(calls: Bools, truth: Bools) -> float:
        hit, false = calls[truth].mean(), calls[~truth].mean()
        return float(hit / (hit + false)) if hit >= least else 0.0

    grid = np.round(np.arange(0.02, 0.99, 0.01), 2).tolist()
    of_viral = {t: correct(score >= t, virus) for t in grid}
    of_non_viral = {t: correct(score <= t, ~virus) for t in grid}
    viral = min((t for t in grid if of_viral[t] >= right), default=max(grid, key=lambda t: of_viral[t]))
    non_viral = max((t for t in grid if of_non_viral[t] >= right), default=max(grid, key=lambda t: of_non_viral[t]))
    if non_viral >= viral:
        viral, non_viral = (viral + non_viral) / 2 + 0.01, (viral + non_viral) / 2 - 0.01
    return {"viral": round(viral, 3), "non_viral": round(non_viral, 3), "scored_share": SCORED_SHARE}


def evaluate(rows: list[dict[str, str]], frames: Frames, scores: Floats) -> tuple[dict[str, float], dict[str, Any]]:
    """Choose thresholds and measure frames, windows and sequences.

    Args:
        rows: The records of the split, in the order `frames.sequence` counts them.
        frames: Their frames.
        scores: (N, 2), others and virus, of each frame.

    Returns:
        Thresholds, and the metrics as a JSON-ready dict.
    """
    virus = frames.virus.numpy().astype(bool)
    right = (scores[:, 1] > scores[:, 0]) == virus
    windows = window_scores(frames, scores)
    sequences = sequence_scores(windows)
    is_virus = np.array([row["label"] == "virus" for row in rows])
    sequence_score, sequence_virus = np.array(list(sequences.values())), is_virus[list(sequences)]
    thresholds = choose_thresholds(sequence_score, sequence_virus)
    kinds = sorted({(row["label"], row["category"]) for row in rows})
    by_category: dict[str, Any] = {}
    for label, category in kinds:
        mask = (frames.category == category) & (virus == (label == "virus"))
        members = [i for i, row in enumerate(rows) if (row["label"], row["category"]) == (label, category)]
        by_category[f"{label}/{category}"] = {
            "frames": int(mask.sum()),
            "frame_accuracy": round(float(right[mask].mean()), 3) if mask.any() else None,
            **verdict_shares([sequences.get(i) for i in members], thresholds),
        }
    return thresholds, {
        "frames": len(virus),
        "frame_auroc": round(auroc(scores[:, 1], virus), 4),
        "frame_accuracy": round(float(right.mean()), 4),
        "frame_balanced_accuracy": round(float((right[virus].mean() + right[~virus].mean()) / 2), 4),
        "windows_scored": len(windows),
        "window_auroc": round(auroc(np.array(list(windows.values())), is_virus[[i for i, _ in windows]]), 4),
        "sequences_scored": len(sequences),
        "sequence_auroc": round(auroc(sequence_score, sequence_virus), 4),
        "of_all_viruses": verdict_shares([sequences.get(i) for i in np.flatnonzero(is_virus).tolist()], thresholds),
        "of_all_others": verdict_shares([sequences.get(i) for i in np.flatnonzero(~is_virus).tolist()], thresholds),
        "by_category": by_category,
    }


def verdict_shares(scores: list[float | None], thresholds: dict[str, float]) -> dict[str, float]:
    """Number of sequences, and the share of each verdict; None is a sequence without a scored window."""
    viral, non_viral = thresholds["viral"], thresholds["non_viral"]
    found = [score for score in scores if score is not None]
    counts = {
        "viral": sum(score >= viral for score in found),
        "uncertain": sum(non_viral < score < viral for score in found),
        "non_viral": sum(score <= non_viral for score in found),
        "no_open_frame": len(scores) - len(found),
    }
    return {"sequences": len(scores)} | {name: round(count / len(scores), 3) for name, count in counts.items()}
