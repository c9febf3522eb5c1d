"""What the page shows of the sequences, gathered one by one within bounded memory.

A page holds `ROWS_MAX` sequences and the windows of as many as fit into `WINDOWS_MAX`; beyond that the best
ranked are kept, and the page says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from virnuc_dagster.classify.consensus import Reason, SequenceScore, Source, Verdict, WindowScore

ROWS_MAX = 300_000
WINDOWS_MAX = 1_000_000
#: Windows of one sequence; a longer one is shown without its windows.
TRACE_MAX = 200_000
#: Letters of an id.
ID_MAX = 300

#: Order of the codes in the page's data.
VERDICTS = tuple(Verdict)
SOURCES = tuple(Source)
REASONS = tuple(Reason)
#: Order of the verdicts in tables: what to look at first.
RANKED = (
    Verdict.VIRAL, Verdict.UNCERTAIN, Verdict.NON_VIRAL, Verdict.INCOMPLETE, Verdict.NO_OPEN_FRAME, Verdict.TOO_SHORT,
)  # fmt: skip
NO_SCORE, NO_PROBABILITY, NO_REASON = 0xFFFFFFFF, 0xFFFF, 0xFF
_MILLIONTHS, _TEN_THOUSANDTHS = 1_000_000, 10_000

_WINDOW = np.dtype(
    [("start", "<u4"), ("end", "<u4"), ("others", "<u2"), ("virus", "<u2"), ("source", "u1"), ("counted", "u1")]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of the page; `trace` holds its windows as `_WINDOW` records, or is None."""

    number: int
    id: str
    length: int
    windows: int
    scored: int
    fallback: int
    score: float | None
    verdict: Verdict
    reason: Reason | None
    unknown: int
    trace: bytes | None

    @property
    def rank(self) -> tuple[int, float, int]:
        """Order in which rows are kept and shown: by verdict, then highest scores first, then input order."""
        return RANKED.index(self.verdict), (1.0 if self.score is None else -self.score), self.number


@dataclass
class PageRows:
    """The rows of a page, as they are gathered.

    Args:
        rows_max: Rows to keep.
        windows_max: Windows to keep, over all rows.
        trace_max: Windows of one sequence beyond which none of them is kept.
    """

    rows_max: int = ROWS_MAX
    windows_max: int = WINDOWS_MAX
    trace_max: int = TRACE_MAX
    total: int = 0
    _rows: list[Row] = field(default_factory=list)
    _windows: int = 0

    def add(self, sequence: SequenceScore) -> None:
        """Take one more sequence."""
        windows = sequence.windows
        trace = _trace(windows, sequence.known_share) if len(windows) <= self.trace_max else None
        self._rows.append(
            Row(
                self.total, _cut(sequence.id), sequence.length, len(windows), sequence.scored_windows,
                sequence.fallback_windows, sequence.score, sequence.verdict, sequence.reason, sequence.unknown_bases,
                trace,
            )
        )  # fmt: skip
        self.total += 1
        self._windows += len(windows) if trace else 0
        if len(self._rows) > 2 * self.rows_max or self._windows > 2 * self.windows_max:
            self._prune()

    def _prune(self) -> None:
        """Keep what the final page can still hold: best ranks, and windows while they fit."""
        ranked = sorted(self._rows, key=lambda row: row.rank)[: self.rows_max]
        held = accumulate(0 if row.trace is None else row.windows for row in ranked)
        self._rows = [
            row if row.trace is None or so_far <= self.windows_max else _without_trace(row)
            for row, so_far in zip(ranked, held, strict=True)
        ]
        self._windows = sum(row.windows for row in self._rows if row.trace is not None)

    def rows(self) -> list[Row]:
        """Return the rows to show, in input order."""
        self._prune()
        return sorted(self._rows, key=lambda row: row.number)

    def best(self, count: int) -> list[Row]:
        """Return the first rows in order of rank."""
        return sorted(self._rows, key=lambda row: row.rank)[:count]


def _cut(name: str) -> str:
    return name if len(name) <= ID_MAX else name[: ID_MAX - 1] + "…"


def _without_trace(row: Row) -> Row:
    return replace(row, trace=None)


def _probability(value: float | None) -> int:
    return NO_PROBABILITY if value is None else round(value * _TEN_THOUSANDTHS)


def _trace(windows: Sequence[WindowScore], known_share: float) -> bytes:
    records = [
        (w.start, w.end, _probability(w.others), _probability(w.virus), SOURCES.index(w.source), w.counts(known_share))
        for w in windows
    ]
    return np.array(records, _WINDOW).tobytes()


def row_columns(rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
    """Make the table's columns; `trace` is the place of a row's first window, `NO_SCORE` for none."""
    kept = [row.windows if row.trace is not None else 0 for row in rows]
    first = [total - count for total, count in zip(accumulate(kept), kept, strict=True)]
    scores = [NO_SCORE if row.score is None else round(row.score * _MILLIONTHS) for row in rows]
    traces = [NO_SCORE if row.trace is None else place for row, place in zip(rows, first, strict=True)]
    return {
        "number": np.array([row.number for row in rows], np.uint32),
        "length": np.array([row.length for row in rows], np.uint32),
        "windows": np.array([row.windows for row in rows], np.uint32),
        "scored": np.array([row.scored for row in rows], np.uint32),
        "fallback": np.array([row.fallback for row in rows], np.uint32),
        "score": np.array(scores, np.uint32),
        "trace": np.array(traces, np.uint32),
        "verdict": np.array([VERDICTS.index(row.verdict) for row in rows], np.uint8),
        "reason": np.array([NO_REASON if row.reason is None else REASONS.index(row.reason) for row in rows], np.uint8),
        "unknown": np.array([row.unknown for row in rows], np.uint32),
    }


def window_columns(rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
    """Join the windows of all rows that have them; starts are differences, which pack well."""
    traces = [np.frombuffer(row.trace, _WINDOW) for row in rows if row.trace]
    if not traces:
        traces = [np.empty(0, _WINDOW)]
    steps = np.concatenate([np.diff(trace["start"], prepend=np.uint32(0)) for trace in traces])
    windows = np.concatenate(traces)
    return {
        "step": steps.astype(np.uint32),
        "span": (windows["end"] - windows["start"]).astype(np.uint32),
        "others": np.ascontiguousarray(windows["others"]).astype(np.uint16),
        "virus": np.ascontiguousarray(windows["virus"]).astype(np.uint16),
        "source": np.ascontiguousarray(windows["source"]).astype(np.uint8),
        "counted": np.ascontiguousarray(windows["counted"]).astype(np.uint8),
    }
