"""Windows: how a sequence of any length is cut into pieces of at most `window_length` bases (method.md §1).

Only coordinates are computed here; what is read inside a window is the business of `translation`.
"""

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

SHORTEST = 3
"""Bases below which a sequence is too short: no codon fits, so it gets no window."""


def window_spans(length: int, window_length: int) -> Int64Array:
    """Cut one sequence into windows (method.md §1).

    Args:
        length: Length of the sequence, in bases.
        window_length: Most bases of a window, at least 3.

    Returns:
        Array (n, 2) of start and end (exclusive), 0-based, by start. Consecutive windows touch or overlap; together
        they cover the sequence. Empty (0, 2) when the sequence has fewer than 3 bases.

    Raises:
        ValueError: `window_length` is below 3.
    """
    return spans_of_many(np.array([length], dtype=np.int64), window_length)[0]


def spans_of_many(lengths: Int64Array, window_length: int) -> tuple[Int64Array, Int64Array]:
    """Cut many sequences into windows at once (method.md §1).

    Args:
        lengths: Array (S,) of sequence lengths, in bases.
        window_length: Most bases of a window, at least 3.

    Returns:
        The spans of all windows, array (W, 2) as in `window_spans`, in the order of the sequences; and the number of
        windows of each sequence, array (S,), with sum W.

    Raises:
        ValueError: `window_length` is below 3.
    """
    if window_length < SHORTEST:
        raise ValueError(f"window_length must be at least {SHORTEST}, not {window_length}")
    counts = np.where(lengths >= SHORTEST, -(-lengths // window_length), 0)
    to_spread = counts * window_length - lengths
    # The divisor is n and not n - 1: a quirk the published heads were trained with. What does not fit into the
    # n - 1 overlaps makes the last window short.
    low, with_one_more = np.divmod(to_spread, np.maximum(counts, 1))
    with_one_more += low

    total = int(counts.sum())
    index = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    # The sum of the first i overlaps, of which the first `with_one_more` are one base longer.
    overlapped = np.repeat(low, counts) * index + np.minimum(index, np.repeat(with_one_more, counts))
    starts = index * window_length - overlapped
    ends = np.minimum(starts + window_length, np.repeat(lengths, counts))
    return np.stack([starts, ends], axis=1), counts
