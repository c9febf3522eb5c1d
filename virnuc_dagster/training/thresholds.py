"""What turns sequence scores into verdicts: the least sure score at which a call is still right often enough."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RIGHT = 0.95
"""Wanted share of right calls, were both classes equally frequent."""
LEAST = 0.2
"""Share of its class that a call must reach, so that no threshold is chosen for a handful of sequences."""
_GRID = np.round(np.arange(0.02, 0.99, 0.01), 2)


def choose_thresholds(score: Floats, is_virus: Bools, weight: Floats) -> dict[str, float]:
    """Choose the bundle's thresholds.

    The uncertain range is as small as `RIGHT` allows: at a threshold and at every surer one, that many calls are right.
    Where this cannot be reached, the threshold with the most right calls is taken. If both would cross, nothing needs
    to be uncertain: both move to the middle.

    Args:
        score: Sequence scores, (N,).
        is_virus: Truth of each, (N,).
        weight: Weight of each, (N,).

    Returns:
        `viral` and `non_viral`, the former the larger.
    """
    viral = _least_sure(_GRID[::-1].tolist(), lambda t: score >= t, is_virus, weight)
    non_viral = _least_sure(_GRID.tolist(), lambda t: score <= t, ~is_virus, weight)
    if non_viral >= viral:
        middle = (viral + non_viral) / 2
        viral, non_viral = middle + 0.005, middle - 0.005
    return {"viral": round(viral, 3), "non_viral": round(non_viral, 3)}


def _least_sure(grid: list[float], calls: Callable[[float], Bools], truth: Bools, weight: Floats) -> float:
    """Find the last threshold, from the surest on, up to which `RIGHT` of the calls are right."""
    shares: list[tuple[float, float]] = []
    for threshold in grid:
        called = calls(threshold)
        hit = float(np.average(called[truth], weights=weight[truth]))
        false = float(np.average(called[~truth], weights=weight[~truth]))
        if hit >= LEAST:
            shares.append((hit / (hit + false), threshold))
    if not shares:
        return grid[-1]
    good = list(takewhile(lambda entry: entry[0] >= RIGHT, shares))
    return good[-1][1] if good else max(shares)[1]
