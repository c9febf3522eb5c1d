"""What a reader should know before trusting a report: coverage and quality, as sentences with the figures behind them.

Each rule looks at counts only, so that it holds for any number of sequences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from virnuc_dagster.classify.consensus import SequenceScore, Verdict

#: A batch of which fewer windows could be scored gets a warning.
COVERAGE_MIN = 0.5
#: Viral calls on fewer scored windows are counted as thin.
THIN_WINDOWS = 2


@dataclass
class QualityCounts:
    """Counts that the warnings rest on."""

    sequences: int = 0
    windows: int = 0
    scored_windows: int = 0
    fallback_windows: int = 0
    unscored: int = 0
    incomplete: int = 0
    shorter_than_window: int = 0
    thin_viral: int = 0
    viral: int = 0
    frames: int = 0
    ambiguous_frames: int = 0

    def add(self, sequence: SequenceScore, *, window_length: int, fallback: int) -> None:
        """Count one sequence; `fallback` of its windows were scored without an open frame."""
        self.sequences += 1
        self.windows += len(sequence.windows)
        self.scored_windows += sequence.scored_windows
        self.fallback_windows += fallback
        self.unscored += sequence.verdict in (Verdict.NO_OPEN_FRAME, Verdict.TOO_SHORT)
        self.incomplete += sequence.verdict is Verdict.INCOMPLETE
        self.shorter_than_window += sequence.length < window_length
        if sequence.verdict is Verdict.VIRAL:
            self.viral += 1
            self.thin_viral += sequence.scored_windows < THIN_WINDOWS


def warnings(counts: QualityCounts, window_length: int) -> Iterator[str]:
    """Sentences, the gravest first; none for a batch without a flaw."""
    c = counts
    if c.unscored:
        yield (
            f"{c.unscored:,} of {c.sequences:,} sequences could not be scored (no window with an open reading frame,"
            " or fewer than 3 bases). That is no evidence for or against a virus."
        )
    if c.windows and c.scored_windows < COVERAGE_MIN * c.windows:
        yield (
            f"Only {c.scored_windows / c.windows:.0%} of all windows ({c.scored_windows:,} of {c.windows:,}) could be"
            " scored. Look at the column “scored” before you trust a verdict."
        )
    if c.fallback_windows:
        yield (
            f"{c.fallback_windows:,} windows without an open frame were scored by the fallback on their bases alone,"
            " which is less accurate; they are drawn hollow."
        )
    if c.thin_viral:
        yield f"{c.thin_viral:,} of {c.viral:,} viral sequences rest on a single scored window."
    if c.shorter_than_window:
        yield (
            f"{c.shorter_than_window:,} sequences are shorter than one window ({window_length:,} bases): each has one"
            " short window, and the head was trained on full ones."
        )
    if c.ambiguous_frames:
        yield (
            f"{c.ambiguous_frames:,} of {c.frames:,} frames hold ambiguous codons (N and the like): there, bases and"
            " protein are out of register, as in the original program."
        )
