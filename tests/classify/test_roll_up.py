"""Roll-ups, against tables computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_dagster.classify.roll_up import ROLL_UPS

SCORES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("name", "scores", "from_frame", "expected"),
    [
        ("max", [0.2, 0.9, 0.4], [1, 0, 1], 0.9),
        ("mean", [0.2, 0.9, 0.4], [1, 0, 1], 0.5),
        ("mean_frames_first", [0.2, 0.9, 0.4], [1, 0, 1], 0.3),
        ("mean_frames_first", [0.2, 0.9], [0, 0], 0.55),  # no open frame at all: the fallback's mean
        ("viral_share", [0.5, 0.4, 0.9, 0.1], [1, 1, 1, 1], 0.5),  # a tie is virus
        # d = 0.64 and -0.36, roots 0.8 and 0.6: (0.512 - 0.216) / 1.4 = 0.211429, from -1..1 to 0..1
        ("contig_score", [0.82, 0.32], [1, 1], 0.605714),
        ("contig_score", [0.5, 0.5], [1, 1], 0.5),  # nothing said: undecided, not 0 / 0
        ("mean_logit", [0.9, 0.9, 0.1], [1, 1, 1], 0.675334),  # odds 9 ** (1/3) = 2.080084
        ("mean_logit", [1.0], [1], 0.99),  # no window is surer than that
        ("weighted_logit", [0.9, 0.1], [1, 0], 0.675334),  # (1 - 0.5) / 1.5 of log 9
        ("evidence", [0.9, 0.9, 0.9, 0.9], [1, 1, 1, 1], 0.987805),  # odds 9 ** 2
    ],
)
def test_by_hand(name, scores, from_frame, expected):
    assert ROLL_UPS[name](scores, [bool(f) for f in from_frame]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ROLL_UPS)
@given(SCORES)
def test_every_roll_up_stays_in_range_and_does_not_care_for_order(name, windows):
    roll_up = ROLL_UPS[name]
    score = roll_up(*zip(*windows, strict=True))

    assert 0 <= score <= 1
    assert roll_up(*zip(*windows[::-1], strict=True)) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name", ROLL_UPS)
@pytest.mark.parametrize("score", [0.02, 0.3, 0.5, 0.8])
def test_one_window_keeps_its_side(name, score):
    found = ROLL_UPS[name]([score], [True])

    assert (found >= 0.5) == (score >= 0.5)
    assert found == pytest.approx(score) or name == "viral_share"
