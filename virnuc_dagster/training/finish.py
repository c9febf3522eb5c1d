"""From a head to a bundle: fallback, roll-up and thresholds chosen on `dev`; `val` scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from virnuc_dagster.classify.consensus import KNOWN_BASES, Source, WindowScore, evidence
from virnuc_dagster.classify.fallback import FallbackModel, LabelledWindows, calibration_line, fit_fallback
from virnuc_dagster.classify.head import Head, in_order, predict
from virnuc_dagster.classify.roll_up import ROLL_UPS
from virnuc_dagster.sequences.windows import window_spans
from virnuc_dagster.training.frames import FrameSet, balanced_weights
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.scoring import fill_in, windows_of
from virnuc_dagster.training.thresholds import choose_thresholds

GROW_WITH_LENGTH = {"max", "evidence"}
"""Roll-ups that are surer the more windows there are, whatever they say."""
CALIBRATING = 10
"""Least windows without an open frame of each class to calibrate the fallback on; else all windows of `dev` are."""
SCORED_SHARE = 0.1
"""Least share of scored windows for a verdict; the fallback scores nearly all of them."""
KNOWN_SHARE = 0.6
"""Least known share of a window that counts: what N does to verdicts was measured by `bench/verdicts.py masked`."""


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the data with the embeddings of its frames.

    Attributes:
        records: Its records.
        frames: Their frames, cut without shifts.
        embeddings: Part of an encoder -> embeddings, row i of frame i.
    """

    records: list[Record]
    frames: FrameSet
    embeddings: Mapping[str, torch.Tensor]

    @property
    def joined(self) -> torch.Tensor:
        """What the head is given, (N, F)."""
        return torch.cat(in_order(self.embeddings), dim=1)

    def windows(self, head: Head, fallback: FallbackModel | None, window_length: int) -> list[list[WindowScore]]:
        """Score the windows of each record."""
        scores = predict(head, self.embeddings)
        windows = list(windows_of(self.records, self.frames, scores, window_length))
        if fallback:
            fill_in(self.records, windows, fallback)
        return windows


def window_texts(records: Sequence[Record], window_length: int) -> tuple[list[bytes], NDArray[np.int64]]:
    """Cut the bases of every window; return also the index of its record."""
    texts, record = [], []
    for index, one in enumerate(records):
        for start, end in window_spans(len(one.sequence), window_length).tolist():
            texts.append(one.sequence[start:end])
            record.append(index)
    return texts, np.array(record, dtype=np.int64)


def fit_fallbacks(
    fit: Sequence[Record], dev: Part, head: Head, window_length: int
) -> tuple[FallbackModel, FallbackModel]:
    """Fit the fallback to choose by, on all windows of `fit`, and the one to ship, on those of `dev` as well.

    Both are calibrated by one line, found with the first on the windows of `dev` without an open frame (on all of
    `dev` where a class has too few of these): to what the second has learnt from, it would seem too sure.
    """
    chosen_by, shipped = (_fit(records, window_length) for records in (fit, [*fit, *dev.records]))
    line = calibration_line(chosen_by, _calibrating(dev, head, window_length))
    return chosen_by.calibrated(line), shipped.calibrated(line)


def _fit(records: Sequence[Record], window_length: int) -> FallbackModel:
    texts, record = window_texts(records, window_length)
    is_virus = np.array([r.is_virus for r in records])[record]
    return fit_fallback(texts, is_virus, balanced_weights(records, record) * len(record))


def _calibrating(dev: Part, head: Head, window_length: int) -> LabelledWindows:
    """Choose windows without a frame, or all (see `fit_fallbacks`).

    Weights are those that balance all windows, so that having none counts as it should.
    """
    windows = dev.windows(head, None, window_length)
    of_all = np.repeat(np.arange(len(windows)), [len(mine) for mine in windows])
    weight = balanced_weights(dev.records, of_all) * len(of_all)
    is_empty = np.array([window.source is Source.NONE for mine in windows for window in mine])
    texts = window_texts(dev.records, window_length)[0]
    truth = np.array([record.is_virus for record in dev.records])[of_all]
    enough = min(np.count_nonzero(is_empty & truth), np.count_nonzero(is_empty & ~truth)) >= CALIBRATING
    chosen = np.flatnonzero(is_empty) if enough else np.arange(len(texts))
    return LabelledWindows([texts[i] for i in chosen], truth[chosen], weight[chosen])


def sequence_scores(windows: Sequence[Sequence[WindowScore]], roll_up: str) -> NDArray[np.float64]:
    """Score of each sequence, NaN without a window that counts."""
    counted = (evidence(mine, KNOWN_SHARE) for mine in windows)
    return np.array([ROLL_UPS[roll_up](*found) if found[0] else np.nan for found in counted])


def choose_roll_up(
    records: Sequence[Record], windows: Sequence[list[WindowScore]]
) -> tuple[str, dict[str, dict[str, float]], dict[str, float]]:
    """Choose the roll-up with which most sequences get the right verdict, at thresholds chosen for it.

    A contig may be far longer than the records: all windows of a group count as one more sequence, and roll-ups whose
    scale grows with the number of windows are measured but not chosen: their thresholds hold for one length.

    Returns:
        Name, figures of all that were tried, thresholds. Figures are weighted so that classes and categories balance:
        `auroc`, both thresholds, and of the sequences the share with a `right` and with a `wrong` verdict (the rest
        is uncertain).
    """
    from sklearn.metrics import roc_auc_score

    genomes: dict[tuple[str, str], tuple[Record, list[WindowScore]]] = {}
    for record, mine in zip(records, windows, strict=True):
        genomes.setdefault((record.kind, record.group), (record, []))[1].extend(mine)
    records = [*records, *(record for record, _ in genomes.values())]
    windows = [*windows, *(joined for _, joined in genomes.values())]
    is_virus = np.array([record.is_virus for record in records])
    weight = balanced_weights(records, np.arange(len(records)))
    tried = {}
    for name in ROLL_UPS:
        score = sequence_scores(windows, name)
        known = ~np.isnan(score)
        limits = choose_thresholds(score[known], is_virus[known], weight[known])
        viral, non_viral = score >= limits["viral"], score <= limits["non_viral"]
        tried[name] = {
            "auroc": float(roc_auc_score(is_virus[known], score[known], sample_weight=weight[known])),
            **limits,
            "right": float(np.average(np.where(is_virus, viral, non_viral), weights=weight)),
            "wrong": float(np.average(np.where(is_virus, non_viral, viral), weights=weight)),
        }
    best = max(tried.keys() - GROW_WITH_LENGTH, key=lambda name: (tried[name]["right"], tried[name]["auroc"], name))
    chosen = {name: tried[best][name] for name in ("viral", "non_viral")}
    rules = {"scored_share": SCORED_SHARE, "known_share": KNOWN_SHARE, "known_bases": KNOWN_BASES}
    return best, tried, {**chosen, **rules}
