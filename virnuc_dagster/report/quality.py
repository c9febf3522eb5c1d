"""What a reader should know before trusting a report: coverage and quality, as sentences with their figures."""

from collections.abc import Iterator

from virnuc_dagster.classify.consensus import Reason, Verdict
from virnuc_dagster.report.counts import BatchCounts

#: A batch with a smaller share of windows scored from frames gets a warning.
COVERAGE_MIN = 0.5


def warnings(counts: BatchCounts) -> Iterator[str]:
    """Yield sentences, the gravest first; none for a batch without a flaw."""
    c = counts
    if unscored := c.verdicts[Verdict.NO_OPEN_FRAME] + c.verdicts[Verdict.TOO_SHORT]:
        yield (
            f"{unscored:,} of {c.sequences:,} sequences could not be scored (no window with an open reading frame, or"
            " fewer than 3 bases). That is no evidence for or against a virus."
        )
    if unknown := c.reasons[Reason.TOO_LITTLE_KNOWN]:
        yield (
            f"{unknown:,} of {c.sequences:,} sequences are uncertain because too little of them is known: they are too"
            " short to tell, or hold too many N and other ambiguity codes, which say nothing for or against a virus."
        )
    if c.windows and c.scored_windows < COVERAGE_MIN * c.windows:
        yield (
            f"Only {c.scored_windows / c.windows:.0%} of all windows ({c.scored_windows:,} of {c.windows:,}) have an"
            " open reading frame of known codons, which the method needs. Look at the column “scored” before you trust"
            " a verdict."
        )
    if c.fallback_windows:
        yield (
            f"{c.fallback_windows:,} windows without an open frame were scored by the fallback, from the composition"
            " of their bases alone; that is less accurate. They are drawn thin and dashed."
        )
    if c.uncounted_windows:
        yield (
            f"{c.uncounted_windows:,} windows have a score that does not count, because too few of their letters are"
            " known. They have no part in any verdict, and are hatched."
        )
    if c.thin_viral:
        yield f"{c.thin_viral:,} of {c.verdicts[Verdict.VIRAL]:,} viral sequences rest on a single scored window."
    if c.shorter_than_window:
        yield (
            f"Shorter than one window ({c.window_length:,} bases): {c.shorter_than_window:,} of {c.sequences:,}"
            " sequences. The head was trained on full windows."
        )
    if c.ambiguous_frames:
        yield (
            f"{c.ambiguous_frames:,} of {c.frames:,} frames hold ambiguous codons (N and the like): there, bases and"
            " protein are out of register, as in the original program."
        )
