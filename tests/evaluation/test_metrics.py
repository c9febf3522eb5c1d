"""Metrics: against sklearn on repeated rows and plain loops; intervals on data whose spread is known."""

import numpy as np
import pytest
from sklearn import metrics as sk

from virnuc_dagster.evaluation.metrics import RATES, intervals, measure, reliability


def example(n: int = 400, seed: int = 0):
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.4
    return np.clip(random.normal(0.35 + 0.3 * truth, 0.2), 0, 1).round(2), truth  # rounded: with ties


def test_rates_are_those_of_sklearn():
    score, truth = example()

    found = measure(score, truth)

    call = score >= 0.5
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, call))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, call))
    assert found["sensitivity"] == pytest.approx(sk.recall_score(truth, call))
    assert found["specificity"] == pytest.approx(sk.recall_score(~truth, ~call))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, score))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, score))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, score))
    assert (found["n"], found["viruses"], found["others"]) == (400, truth.sum(), (~truth).sum())


def test_the_areas_are_those_of_every_pair_and_every_rank():
    score, truth = example(60)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth] for b in score[~truth]]
    order = np.argsort(-np.array([0.9, 0.8, 0.7, 0.6]))

    assert measure(score, truth)["auroc"] == pytest.approx(np.mean(pairs))
    assert measure(np.array([0.9, 0.8, 0.7, 0.6])[order], [True, False, True, False])["average_precision"] == (
        pytest.approx((1 + 2 / 3) / 2)
    )


def test_calibration_error_by_hand():
    # bin 0.2-0.3: two rows, mean score .2, share of virus .5; bin 0.9-1: two rows, mean .95, share 1
    score, truth = [0.2, 0.2, 0.9, 1.0], [True, False, True, True]

    assert measure(score, truth)["ece"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.05)
    assert [list(row.values()) for row in reliability(score, truth)] == [
        [2, pytest.approx(0.2), 0.5],
        [2, pytest.approx(0.95), 1.0],
    ]


@pytest.mark.parametrize(
    ("score", "truth", "undefined"),
    [
        ([0.1, 0.9], [False, False], {"balanced_accuracy", "sensitivity", "auroc", "average_precision"}),
        ([0.1, 0.9], [True, True], {"balanced_accuracy", "specificity", "auroc", "average_precision"}),
        ([], [], set(RATES)),
    ],
)
def test_what_is_undefined_is_none(score, truth, undefined):
    found = measure(score, truth)

    assert {name for name in RATES if found[name] is None} == undefined


def test_intervals_hold_the_value_and_are_reproducible():
    score, truth = example()
    group = np.arange(400) % 80

    found = intervals(score, truth, group, replicates=100)

    value = measure(score, truth)
    assert all(low <= value[name] <= high for name, (low, high) in found.items())
    assert found == intervals(score, truth, group, replicates=100)


def test_few_groups_say_less_than_many():
    score, truth = example(1000)
    right = (score >= 0.5) == truth
    order = np.argsort(right)  # whole groups right or wrong: their rows repeat each other
    together, apart = np.empty(1000, dtype=int), np.arange(1000)
    together[order] = apart // 50

    width = [np.diff(intervals(score, truth, group, replicates=100)["accuracy"])[0] for group in (together, apart)]

    assert width[0] > 3 * width[1]
    assert width[1] == pytest.approx(2 * 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 1000), rel=0.3)


def test_one_group_has_no_interval():
    assert intervals([0.1, 0.9], [False, True], ["a", "a"]) == dict.fromkeys(RATES)
