"""Scores of labelled records: windows by their frames or the fallback, as the report makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from virnuc_dagster.classify.consensus import FrameScore, Source, WindowScore, score_windows, with_fallback
from virnuc_dagster.classify.fallback import FallbackModel
from virnuc_dagster.sequences.translation import known_shares, unknown_bases
from virnuc_dagster.sequences.windows import window_spans
from virnuc_dagster.training.frames import FrameSet
from virnuc_dagster.training.records import Record


def windows_of(
    records: Sequence[Record], frames: FrameSet, scores: torch.Tensor, window_length: int
) -> Iterator[list[WindowScore]]:
    """Yield the windows of each record with the scores of their frames.

    Args:
        records: Records.
        frames: Their frames, cut without shifts.
        scores: P(others), P(virus) of each frame, (N, 2).
        window_length: Bases of a window.
    """
    mine: list[list[FrameScore]] = [[] for _ in records]
    for record, name, (others, virus) in zip(frames.record.tolist(), frames.ids, scores.tolist(), strict=True):
        mine[record].append(FrameScore(name, others, virus))
    for record_, scored in zip(records, mine, strict=True):
        spans = window_spans(len(record_.sequence), window_length)
        known = known_shares(record_.sequence, spans) if unknown_bases(record_.sequence) else None
        yield list(score_windows(record_.id, spans.tolist(), scored, known))


def fill_in(records: Sequence[Record], windows: Sequence[list[WindowScore]], fallback: FallbackModel) -> None:
    """Give windows without an open frame the fallback's score, in place."""
    for record, mine in zip(records, windows, strict=True):
        empty = [i for i, window in enumerate(mine) if window.source is Source.NONE]
        texts = [record.sequence[mine[i].start : mine[i].end] for i in empty]
        for i, score in zip(empty, fallback.score(texts).tolist(), strict=True):
            mine[i] = with_fallback(mine[i], score)
