"""How good scores are: metrics on (score, truth), their calibration, and intervals by group bootstrap.

Everything here takes arrays, knows no files and no sequences, and gives plain numbers ready for JSON: a metric that is
undefined (no virus among the rows, say) is None.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "average_precision", "brier", "ece")
BINS = 10


def measure(score: ArrayLike, is_virus: ArrayLike, *, cut: float = 0.5) -> dict[str, float | int | None]:
    """Compute all metrics of scored rows.

    Args:
        score: P(virus) or another score of 0 to 1, (N,).
        is_virus: Truth, (N,).
        cut: Least score of a call `virus`.

    Returns:
        `n`, `viruses`, `others`, and every name of `RATES`; None where undefined. `brier` is the mean squared
        difference of score and truth, `ece` the expected calibration error over ten bins of equal width.
    """
    scores, truth = np.asarray(score, dtype=np.float64), np.asarray(is_virus, dtype=bool)
    counts = {"n": len(truth), "viruses": int(truth.sum()), "others": int((~truth).sum())}
    return counts | _rates(scores, truth, np.ones(len(truth)), cut)


def _rates(score: Floats, truth: Bools, weight: Floats, cut: float) -> dict[str, float | None]:
    """Compute every rate of `RATES` of weighted rows."""
    right = (score >= cut) == truth
    sensitivity = _share(right[truth], weight[truth])
    specificity = _share(right[~truth], weight[~truth])
    auroc, average_precision = _areas(score, truth, weight)
    sides = [rate for rate in (sensitivity, specificity) if rate is not None]
    return {
        "accuracy": _share(right, weight),
        "balanced_accuracy": sum(sides) / 2 if len(sides) == 2 else None,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "auroc": auroc,
        "average_precision": average_precision,
        "brier": _share(np.square(score - truth), weight),
        "ece": _calibration_error(score, truth, weight),
    }


def _areas(score: Floats, truth: Bools, weight: Floats) -> tuple[float | None, float | None]:
    """Compute areas under the ROC and precision-recall curves as scikit-learn does, twenty times as fast.

    The bootstrap takes thousands of them; a test holds them to scikit-learn's.
    """
    if not truth.any() or truth.all():
        return None, None
    order = np.argsort(-score, kind="stable")
    score, truth, weight = score[order], truth[order], weight[order]
    ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # equal scores are one step
    hits, false = np.cumsum(weight * truth)[ends], np.cumsum(weight * ~truth)[ends]
    up, across = np.diff(hits, prepend=0) / hits[-1], np.diff(false, prepend=0) / false[-1]
    auroc = (across * (hits / hits[-1] - up / 2)).sum()
    return float(auroc), float((up * hits / (hits + false)).sum())


def _share(values: Floats | Bools, weight: Floats) -> float | None:
    total = weight.sum()
    return float((values * weight).sum() / total) if total > 0 else None


def _calibration_error(score: Floats, truth: Bools, weight: Floats) -> float | None:
    total = weight.sum()
    if not total > 0:
        return None
    gap = np.bincount(_bins(score), weights=(score - truth) * weight, minlength=BINS)
    return float(np.abs(gap).sum() / total)


def _bins(score: Floats) -> NDArray[np.int64]:
    return np.clip((score * BINS).astype(np.int64), 0, BINS - 1)


def reliability(score: ArrayLike, is_virus: ArrayLike) -> list[dict[str, float | int]]:
    """Draw the reliability curve: `n`, mean `score`, share of `virus` of each of ten equal bins that holds rows."""
    scores, truth = np.asarray(score, dtype=np.float64), np.asarray(is_virus, dtype=bool)
    of = _bins(scores)
    return [
        {"n": int(rows.sum()), "score": float(scores[rows].mean()), "virus": float(truth[rows].mean())}
        for number in range(BINS)
        if (rows := of == number).any()
    ]


def roc(score: ArrayLike, is_virus: ArrayLike, points: int = 200) -> list[tuple[float, float]]:
    """Draw the ROC curve: (false positive rate, true positive rate), at most about `points`; empty if undefined."""
    from sklearn.metrics import roc_curve

    scores, truth = np.asarray(score, dtype=np.float64), np.asarray(is_virus, dtype=bool)
    if not truth.any() or truth.all():
        return []
    false, true, _ = roc_curve(truth, scores)
    kept = np.unique(np.linspace(0, len(false) - 1, min(points, len(false))).round().astype(np.int64))
    return [(float(x), float(y)) for x, y in zip(false[kept], true[kept], strict=True)]


def intervals(
    score: ArrayLike,
    is_virus: ArrayLike,
    group: ArrayLike,
    *,
    cut: float = 0.5,
    replicates: int = 200,
    seed: int = 0,
) -> Mapping[str, tuple[float, float] | None]:
    """Estimate 95 % intervals of every rate by bootstrap of whole groups.

    Rows of one group (windows of one genome, species of one family) are not independent: each replicate draws groups
    with replacement and takes all rows of each. Replicates in which a rate is undefined do not count for it.

    Args:
        score: Scores, (N,).
        is_virus: Truth, (N,).
        group: Group of each row, (N,).
        cut: Least score of a call `virus`.
        replicates: Number of replicates.
        seed: Of the draws.

    Returns:
        Name of `RATES` -> (2.5 %, 97.5 %), or None with fewer than two groups or where the rate is undefined.
    """
    scores, truth = np.asarray(score, dtype=np.float64), np.asarray(is_virus, dtype=bool)
    names, member = np.unique(np.asarray(group), return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(RATES)
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in RATES}
    for _ in range(replicates):
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)))[member].astype(np.float64)
        rows = drawn > 0
        if not rows.any():
            continue
        for name, value in _rates(scores[rows], truth[rows], drawn[rows], cut).items():
            if value is not None:
                found[name].append(value)
    return {
        name: tuple(np.percentile(values, [2.5, 97.5]).tolist()) if values else None for name, values in found.items()
    }
