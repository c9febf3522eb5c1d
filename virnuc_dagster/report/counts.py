"""Counts of a batch, gathered sequence by sequence: the summary, and what the warnings rest on."""

from collections import Counter
from typing import Any

from virnuc_dagster.classify.consensus import Reason, SequenceScore, Verdict

SCORE_BINS = 20
#: Viral sequences with fewer scored windows are counted as thin.
THIN_WINDOWS = 2


class BatchCounts:
    """A sum over sequences, whose size does not depend on how many there are.

    Args:
        batch: Key of the batch.
        window_length: Bases a window.
    """

    def __init__(self, batch: str, window_length: int) -> None:
        self.batch, self.window_length = batch, window_length
        self.sequences = self.bases = self.windows = self.scored_windows = self.fallback_windows = 0
        self.frames = self.scored_frames = self.ambiguous_frames = 0
        self.shorter_than_window = self.thin_viral = self.unknown_bases = self.uncounted_windows = 0
        self.verdicts: Counter[Verdict] = Counter()
        self.reasons: Counter[Reason] = Counter()
        self.bins = {verdict: [0] * SCORE_BINS for verdict in (Verdict.VIRAL, Verdict.UNCERTAIN, Verdict.NON_VIRAL)}

    def add(self, sequence: SequenceScore) -> None:
        """Count one sequence."""
        scored = sequence.scored_windows + sequence.fallback_windows
        self.sequences += 1
        self.bases += sequence.length
        self.windows += len(sequence.windows)
        self.scored_windows += sequence.scored_windows
        self.fallback_windows += sequence.fallback_windows
        self.uncounted_windows += sequence.uncounted_windows
        self.unknown_bases += sequence.unknown_bases
        self.verdicts[sequence.verdict] += 1
        if sequence.reason and sequence.verdict is Verdict.UNCERTAIN:
            self.reasons[sequence.reason] += 1
        self.shorter_than_window += sequence.length < self.window_length
        self.thin_viral += sequence.verdict is Verdict.VIRAL and scored < THIN_WINDOWS
        if sequence.score is not None and sequence.verdict in self.bins:
            self.bins[sequence.verdict][min(int(sequence.score * SCORE_BINS), SCORE_BINS - 1)] += 1

    def summary(self) -> dict[str, Any]:
        """Make what `summary.json` says; nothing in it varies between calls."""
        return {
            "batch": self.batch,
            "complete": self.frames == self.scored_frames,
            "sequences": self.sequences,
            "bases": self.bases,
            "windows": self.windows,
            "scored_windows": self.scored_windows,
            "fallback_windows": self.fallback_windows,
            "frames": self.frames,
            "scored_frames": self.scored_frames,
            "verdicts": {v.value: self.verdicts[v] for v in Verdict if v is not Verdict.INCOMPLETE or self.verdicts[v]},
            "uncertain_reasons": {reason.value: self.reasons[reason] for reason in Reason},
            "unknown_bases": self.unknown_bases,
            "uncounted_windows": self.uncounted_windows,
        }
