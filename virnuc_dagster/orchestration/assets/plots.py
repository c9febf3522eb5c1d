"""Small plots for the web UI, as Markdown tables with bars: readable by everyone, and in every theme."""

from collections.abc import Sequence

import dagster as dg

_BAR_CELLS = 24


def histogram(values: Sequence[float], what: str, counted: str, bins: int = 10) -> dg.MarkdownMetadataValue:
    """How many values fall into each tenth of 0..1.

    Args:
        values: Numbers in 0..1.
        what: What they are.
        counted: What has one each.
        bins: Number of intervals.
    """
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    return binned(counts, what, counted)


def binned(counts: Sequence[int], what: str, counted: str) -> dg.MarkdownMetadataValue:
    """A histogram of values that are already counted, in equal intervals of 0..1."""
    bins = len(counts)
    digits = 1 if bins == 10 else 2
    labels = [f"{index / bins:.{digits}f} – {(index + 1) / bins:.{digits}f}" for index in range(bins)]
    return bars(dict(zip(labels, counts, strict=True)), what, counted)


def bars(counts: dict[str, int], what: str, counted: str) -> dg.MarkdownMetadataValue:
    """A bar for each entry, the longest one filling the column.

    Args:
        counts: Number by name, in the order to show.
        what: Heading of the names.
        counted: Heading of the numbers.
    """
    most = max(counts.values(), default=0) or 1
    rows = (f"| {name} | {count:,} | {bar(count / most)} |" for name, count in counts.items())
    return dg.MetadataValue.md("\n".join([f"| {what} | {counted} |  |", "|---|---:|:---|", *rows]))


def bar(share: float) -> str:
    """A bar of blocks; whatever is not nothing shows at least a sliver."""
    eighths = max(round(share * _BAR_CELLS * 8), 1) if share > 0 else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
