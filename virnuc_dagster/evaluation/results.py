"""From a report's tables and labels to figures: what `virnuc evaluate` measures is what the result files say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnuc_dagster.classify.consensus import Source
from virnuc_dagster.classify.roll_up import ROLL_UPS
from virnuc_dagster.evaluation.baseline import cut, floor_scores
from virnuc_dagster.evaluation.metrics import measure
from virnuc_dagster.evaluation.sections import Rows, section, verdicts
from virnuc_dagster.report import paths
from virnuc_dagster.report.reading import MISSING, read_lines
from virnuc_dagster.sequences.labels import Label

Floats = NDArray[np.float64]
Table = dict[str, list[str]]
Labelled = Sequence[tuple[bytes, Label]]


def read_table(path: Path) -> Table:
    """Read a result table as columns."""
    names, *rows = read_lines(path)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def read_results(folder: Path) -> tuple[Table, Table]:
    """Read windows and sequences of a report, in input order."""
    return read_table(folder / paths.WINDOWS), read_table(folder / paths.SEQUENCES)


def _numbers(column: Sequence[str]) -> Floats:
    return np.array([np.nan if text == MISSING else float(text) for text in column], dtype=np.float64)


def _rows(score: Floats, ids: Sequence[str], labels: Mapping[str, Label]) -> Rows:
    of = [labels[name] for name in ids]
    return Rows(
        score,
        np.array([label.is_virus for label in of], dtype=np.bool_),
        np.array([label.category for label in of], dtype=np.str_),
        np.array([label.group for label in of], dtype=np.str_),
    )


def figures(
    windows: Table, sequences: Table, labels: Mapping[str, Label], *, roll_up: str, replicates: int
) -> dict[str, Any]:
    """Compute all figures of a report whose sequences are labelled.

    Args:
        windows: `windows.tsv`; a window that does not count is one without a score.
        sequences: `sequences.tsv`.
        labels: Label of each sequence id.
        roll_up: The bundle's, to roll up the windows with open frames alone.
        replicates: Of the group bootstrap.

    Returns:
        `open_windows`, `no_frame_windows`, `all_windows`, `sequences`, and `sequences_without_fallback`, which tells
        what the fallback is worth; each as `evaluation.sections.section` makes it, `sequences` with `verdicts`.
    """
    virus, others = _numbers(windows["score_virus"]), _numbers(windows["score_others"])
    counted = np.array(windows["counted"], dtype=np.str_) == str(True)
    of_windows = _rows(np.where(counted, virus / (virus + others), np.nan), windows["sequence_id"], labels)
    is_open = np.array(windows["source"], dtype=np.str_) == Source.FRAME.value
    of_sequences = _rows(_numbers(sequences["score"]), sequences["sequence_id"], labels)
    by_frames = is_open & counted
    frames_only = _rolled_up(of_windows.score[by_frames], np.array(windows["sequence_id"])[by_frames].tolist(), roll_up)
    alone = np.array([frames_only.get(name, np.nan) for name in sequences["sequence_id"]], dtype=np.float64)
    parts = {
        "sequences_without_fallback": (_rows(alone, sequences["sequence_id"], labels), of_sequences),
        "open_windows": (of_windows.where(is_open), of_windows),
        "no_frame_windows": (of_windows.where(~is_open), of_windows),
        "all_windows": (of_windows, of_windows),
        "sequences": (of_sequences, of_sequences),
    }
    found = {name: section(rows, everything, replicates=replicates) for name, (rows, everything) in parts.items()}
    found["sequences"]["verdicts"] = verdicts(of_sequences, sequences["verdict"])
    return found


def _rolled_up(score: Floats, ids: Sequence[str], roll_up: str) -> dict[str, float]:
    """Compute sequence scores of windows that all have open frames."""
    of: dict[str, list[float]] = {}
    for name, value in zip(ids, score.tolist(), strict=True):
        of.setdefault(name, []).append(value)
    return {name: ROLL_UPS[roll_up](scores, [True] * len(scores)) for name, scores in of.items()}


def floor_figures(train: Labelled, test: Labelled, window_length: int) -> dict[str, Any]:
    """Measure a plain 6-mer model, fitted on other labelled sequences, on all windows of the same sequences.

    Returns:
        The metrics and `coverage` of each section; a sequence's score is the mean over its windows.
    """
    learnt, tried = (cut([sequence for sequence, _ in part], window_length) for part in (train, test))
    of_open, of_all = floor_scores(learnt, np.array([label.is_virus for _, label in train]), tried)
    truth = np.array([label.is_virus for _, label in test])
    counts = np.bincount(tried.sequence, minlength=len(test))
    with np.errstate(invalid="ignore"):  # 0 / 0: a sequence without a window has no score
        of_sequences = np.bincount(tried.sequence, weights=of_all, minlength=len(test)) / counts
    of_window = truth[tried.sequence]
    parts = {
        "open_windows": (of_open[tried.is_open], of_window[tried.is_open], len(of_window)),
        "no_frame_windows": (of_all[~tried.is_open], of_window[~tried.is_open], len(of_window)),
        "all_windows": (of_all, of_window, len(of_window)),
        "sequences": (of_sequences, truth, len(truth)),
    }
    return {name: _floor(*part) for name, part in parts.items()}


def _floor(score: Floats, truth: NDArray[np.bool_], total: int) -> dict[str, Any]:
    known = ~np.isnan(score)
    return measure(score[known], truth[known]) | {"coverage": float(known.sum() / total) if total else None}
