from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_dagster.sequences.windows import spans_of_many, window_spans

LENGTHS = st.integers(0, 6000)
WINDOW_LENGTHS = st.integers(3, 700)


def plain_spans(length: int, window_length: int) -> list[list[int]]:
    """method.md §1, word for word."""
    if length < 3:
        return []
    n = -(-length // window_length)
    rest = n * window_length - length
    low = rest // n
    need = rest - low * (n - 1)
    overlaps = [low + 1] * need + [low] * max(0, n - 1 - need) + [0]
    starts = [i * window_length - sum(overlaps[:i]) for i in range(n)]
    return [[start, min(start + window_length, length)] for start in starts]


@pytest.mark.parametrize(
    ("window_length", "length", "starts", "last"),
    [
        (500, 501, [0, 250], 251),
        (500, 600, [0, 299], 301),
        (500, 999, [0, 499], 500),
        (500, 1001, [0, 333, 666], 335),
        (500, 1234, [0, 411, 822], 412),
        (500, 2100, [0, 419, 838, 1257, 1676], 424),
        (300, 301, [0, 150], 151),
        (300, 700, [0, 233, 466], 234),
        (500, 500, [0], 500),  # L = C: unchanged
        (500, 3, [0], 3),  # the shortest that is cut
    ],
)
def test_windows_of_the_method_table(window_length, length, starts, last):
    spans = window_spans(length, window_length)
    assert spans[:, 0].tolist() == starts
    assert spans[-1, 1] - spans[-1, 0] == last


@pytest.mark.parametrize("length", [0, 1, 2])
def test_too_short_sequences_have_no_window(length):
    assert window_spans(length, 500).shape == (0, 2)


@given(LENGTHS, WINDOW_LENGTHS)
def test_windows_follow_the_method(length, window_length):
    assert window_spans(length, window_length).tolist() == plain_spans(length, window_length)


@given(st.integers(3, 6000), WINDOW_LENGTHS)
def test_windows_cover_the_sequence_without_gaps(length, window_length):
    spans = window_spans(length, window_length).tolist()
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(start < next_start <= end for (start, end), (next_start, _) in pairwise(spans))
    assert all(end - start <= window_length for start, end in spans)


@given(st.lists(LENGTHS, max_size=20), WINDOW_LENGTHS)
def test_many_sequences_are_cut_as_each_alone(lengths, window_length):
    spans, counts = spans_of_many(np.array(lengths, dtype=np.int64), window_length)
    alone = [plain_spans(length, window_length) for length in lengths]
    assert spans.tolist() == [span for spans in alone for span in spans]
    assert counts.tolist() == [len(spans) for spans in alone]


def test_impossible_window_length_is_refused():
    with pytest.raises(ValueError, match="at least 3, not 2"):
        window_spans(10, 2)
