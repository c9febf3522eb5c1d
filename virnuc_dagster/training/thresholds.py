"""What turns sequence scores into verdicts: the least sure score at which a call is still right often enough."""

from __future__ import annotations

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

    The uncertain range is as small as `RIGHT` allows; where that many right calls cannot be reached, the threshold with
    the most right calls is taken. If both would cross, nothing needs to be uncertain: both move to the middle.

    Args:
        score: Sequence scores, (N,).
        is_virus: Truth of each, (N,).
        weight: Weight of each, (N,).

    Returns:
        `viral` and `non_viral`, the former the larger.
    """

    def right(calls: Bools, truth: Bools) -> float:
        hit, false = np.average(calls[truth], weights=weight[truth]), np.average(calls[~truth], weights=weight[~truth])
        return float(hit / (hit + false)) if hit >= LEAST else 0.0

    of_viral = {float(t): right(score >= t, is_virus) for t in _GRID}
    of_non_viral = {float(t): right(score <= t, ~is_virus) for t in _GRID}
    viral = min((t for t in of_viral if of_viral[t] >= RIGHT), default=max(of_viral, key=lambda t: of_viral[t]))
    non_viral = max(
        (t for t in of_non_viral if of_non_viral[t] >= RIGHT), default=max(of_non_viral, key=lambda t: of_non_viral[t])
    )
    if non_viral >= viral:
        middle = (viral + non_viral) / 2
        viral, non_viral = middle + 0.005, middle - 0.005
    return {"viral": round(viral, 3), "non_viral": round(non_viral, 3)}
