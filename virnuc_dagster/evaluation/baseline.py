"""The floor: what a plain 6-mer model reaches on the same windows. A score below it is not worth its computation.

6-mer counts, both strands as one, divided by their Euclidean norm; logistic regression with C = 1, nothing tuned. One
model for windows with an open frame, fitted on such windows, and one for all windows, fitted on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnuc_dagster.classify.composition import blocks, features, kmer_count
from virnuc_dagster.sequences.translation import open_frames
from virnuc_dagster.sequences.windows import window_spans

KMER = 6
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of some sequences.

    Attributes:
        features: 6-mer counts with rows of norm 1, float32 (N, F).
        sequence: Index of the sequence of each, (N,).
        is_open: Whether it holds a stop-free frame, (N,).
    """

    features: NDArray[np.float32]
    sequence: NDArray[np.int64]
    is_open: NDArray[np.bool_]


def cut(sequences: Sequence[bytes], window_length: int) -> Windows:
    """Cut sequences into windows as the pipeline does."""
    texts: list[bytes] = []
    owner: list[int] = []
    is_open: list[NDArray[np.bool_]] = []
    for index, sequence in enumerate(sequences):
        spans = window_spans(len(sequence), window_length).tolist()
        texts += [sequence[start:end] for start, end in spans]
        owner += [index] * len(spans)
        opened = np.zeros(len(spans), dtype=np.bool_)
        opened[open_frames([sequence], window_length).window] = True
        is_open.append(opened)
    counts = np.empty((len(texts), kmer_count(KMER)), dtype=np.float32)
    for rows, block in blocks(texts):
        counts[rows] = features(block, KMER)[:, : counts.shape[1]]
    return Windows(counts, np.array(owner, dtype=np.int64), np.concatenate([*is_open, np.zeros(0, dtype=np.bool_)]))


def floor_scores(train: Windows, is_virus: NDArray[np.bool_], test: Windows) -> tuple[Floats, Floats]:
    """Fit both models and score windows.

    Args:
        train: Windows to learn from.
        is_virus: Truth of each of their sequences.
        test: Windows to score.

    Returns:
        P(virus) of each test window, (N,), by the model of open windows (NaN for windows without an open frame, or if
        there is nothing to learn from), and by that of all windows.
    """
    truth = is_virus[train.sequence]
    everything = np.ones(len(truth), dtype=np.bool_)
    of_open, of_all = (_fit(train.features[rows], truth[rows]) for rows in (train.is_open, everything))
    open_scores = np.full(len(test.sequence), np.nan)
    if of_open is not None and test.is_open.any():
        open_scores[test.is_open] = of_open.predict_proba(test.features[test.is_open])[:, 1]
    if of_all is None or not len(test.sequence):
        return open_scores, np.full(len(test.sequence), np.nan)
    return open_scores, of_all.predict_proba(test.features)[:, 1]


def _fit(rows: NDArray[np.float32], truth: NDArray[np.bool_]) -> Any:
    from sklearn.linear_model import LogisticRegression

    if not truth.any() or truth.all():
        return None
    return LogisticRegression(C=1, max_iter=1000).fit(rows, truth)
