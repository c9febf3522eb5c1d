import numpy as np
import pytest

from virnuc_dagster.training.thresholds import RIGHT, choose_thresholds


def chosen(others: list[float], viruses: list[float]) -> tuple[float, float]:
    score = np.array(others + viruses)
    limits = choose_thresholds(score, np.arange(len(score)) >= len(others), np.ones(len(score)))
    return limits["non_viral"], limits["viral"]


def test_classes_that_do_not_overlap_leave_nothing_uncertain():
    non_viral, viral = chosen([0.1, 0.2] * 50, [0.8, 0.9] * 50)

    assert 0.2 <= non_viral < viral <= 0.8
    assert viral - non_viral == pytest.approx(0.01)


def test_at_each_threshold_and_every_surer_one_enough_calls_are_right():
    random = np.random.default_rng(3)
    others, viruses = random.beta(2, 4, 4_000), random.beta(4, 2, 4_000)
    non_viral, viral = chosen(others.tolist(), viruses.tolist())

    assert non_viral < viral
    for cut in np.arange(viral, 0.85, 0.01):
        right, wrong = (viruses >= cut - 1e-9).mean(), (others >= cut - 1e-9).mean()
        assert right / (right + wrong) >= RIGHT - 0.001
    at_less = (viruses >= viral - 0.03).mean(), (others >= viral - 0.03).mean()
    assert at_less[0] / sum(at_less) < RIGHT, "the uncertain range is no larger than needed"


def test_a_lucky_stretch_further_in_does_not_count():
    """Calls from 0.9 on are right, those from 0.8 on are not; that those from 0.3 on are again is luck."""
    non_viral, viral = chosen([0.85] * 4 + [0.05] * 96, [0.95] * 400 + [0.35] * 600)

    assert viral > 0.85
    assert non_viral < viral
