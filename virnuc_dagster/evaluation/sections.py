"""Scores against the truth: the figures of windows and sequences, total and by category, each with its coverage.

Takes scored rows (windows or sequences), gives plain numbers ready for JSON; None where a figure is undefined. Where
the rows come from is the business of `cli.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnuc_dagster.classify.consensus import Verdict
from virnuc_dagster.evaluation.metrics import intervals, measure, reliability, roc

CUT = 0.5
"""Scores from here on count as `virus`."""
_MACRO = ("accuracy", "sensitivity", "specificity")


@dataclass(frozen=True, eq=False)
class Rows:
    """Windows or sequences with what is known of each.

    Attributes:
        score: 0 to 1, NaN without a score, (N,).
        is_virus: Truth, (N,).
        category: Category of the record, (N,).
        group: Group of the record, (N,).
    """

    score: NDArray[np.float64]
    is_virus: NDArray[np.bool_]
    category: NDArray[np.str_]
    group: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.score)

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """Select the rows of a mask."""
        return Rows(self.score[mask], self.is_virus[mask], self.category[mask], self.group[mask])

    @property
    def scored(self) -> Rows:
        """The rows that have a score."""
        return self.where(~np.isnan(self.score))


def section(rows: Rows, everything: Rows, *, replicates: int) -> dict[str, Any]:
    """Compute all figures of one kind of rows.

    Args:
        rows: The rows; those without a score enter only the coverage.
        everything: All windows, or all sequences, that `rows` are part of.
        replicates: Of the group bootstrap.

    Returns:
        The metrics of `metrics.measure`; `coverage`, the share of `everything` that they are about; `intervals` (95 %);
        `macro`, means of the categories' figures, so that a large category does not drown the others; `reliability` and
        `roc`, the points of both curves; and `by_category`.
    """
    scored = rows.scored
    by_category = {
        str(name): _of_category(scored, everything, name, replicates) for name in np.unique(everything.category)
    }
    macro = {
        name: _mean(entry[name] for entry in by_category.values() if entry["n"] and entry[name] is not None)
        for name in _MACRO
    }
    sides = [rate for rate in (macro["sensitivity"], macro["specificity"]) if rate is not None]
    macro["balanced_accuracy"] = fmean(sides) if len(sides) == 2 else None
    return _figures(scored, everything, replicates) | {
        "macro": macro,
        "reliability": reliability(scored.score, scored.is_virus),
        "roc": roc(scored.score, scored.is_virus),
        "by_category": by_category,
    }


def _figures(scored: Rows, everything: Rows, replicates: int) -> dict[str, Any]:
    found = measure(scored.score, scored.is_virus, cut=CUT)
    return found | {
        "coverage": len(scored) / len(everything) if len(everything) else None,
        "groups": len(np.unique(scored.group)),
        "intervals": intervals(scored.score, scored.is_virus, scored.group, cut=CUT, replicates=replicates),
    }


def _of_category(scored: Rows, everything: Rows, name: str, replicates: int) -> dict[str, Any]:
    return _figures(scored.where(scored.category == name), everything.where(everything.category == name), replicates)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def verdicts(rows: Rows, found: Sequence[str]) -> dict[str, Any]:
    """Count how often the verdicts of sequences are right.

    Args:
        rows: The sequences.
        found: Verdict of each.

    Returns:
        `called`, the share of sequences called viral or non-viral; `right`, the share of those calls that are right;
        `balanced_right`, the same were both classes equally frequent; and `by_category`, counts of every verdict.
    """
    verdict = np.array(found, dtype=np.str_)
    viral, non_viral = verdict == Verdict.VIRAL.value, verdict == Verdict.NON_VIRAL.value
    called, right = viral | non_viral, np.where(rows.is_virus, viral, non_viral)
    names = [v.value for v in Verdict if v is not Verdict.INCOMPLETE]
    return {
        "called": _share(called, np.ones(len(rows), dtype=bool)),
        "right": _share(right, called),
        "balanced_right": _balanced([(right & side, called & side, side) for side in (rows.is_virus, ~rows.is_virus)]),
        "by_category": {
            str(category): {name: int(((verdict == name) & (rows.category == category)).sum()) for name in names}
            for category in np.unique(rows.category)
        },
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def _balanced(sides: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]]) -> float | None:
    """Compute right over all calls, each class counted as if it had as many sequences as the other."""
    if not all(side.any() for _, _, side in sides):
        return None
    right = sum(float(r.sum() / side.sum()) for r, _, side in sides)
    called = sum(float(c.sum() / side.sum()) for _, c, side in sides)
    return right / called if called else None
