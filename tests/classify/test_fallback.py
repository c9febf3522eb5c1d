"""The fallback: strands, batches, fitting, calibration, storing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_dagster.classify.composition import feature_count
from virnuc_dagster.classify.fallback import FallbackModel, LabelledWindows, calibration_line, fit_fallback

COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def random_windows(random: np.random.Generator, count: int, at: float) -> list[str]:
    share = [at / 2, (1 - at) / 2, (1 - at) / 2, at / 2]
    return ["".join(random.choice(list("ACGT"), 200, p=share)) for _ in range(count)]


@given(st.text("ACGTNacgt", max_size=60), st.integers(0, 9))
def test_both_strands_have_the_same_score(text, seed):
    model = FallbackModel(3, np.random.default_rng(seed).normal(size=feature_count(3)), 0.3)

    forward, reverse = model.score([text, reverse_complement(text)])

    assert forward == reverse or np.isnan([forward, reverse]).all()


def test_a_score_does_not_depend_on_the_other_windows():
    random = np.random.default_rng(0)
    windows = [window[: random.integers(0, 200)] for window in random_windows(random, 600, 0.5)]
    model = FallbackModel(6, random.normal(size=feature_count(6)), 0.0)

    together = model.score(windows)

    assert together.tobytes() == np.concatenate([model.score([window]) for window in windows]).tobytes()


@pytest.mark.parametrize("window", ["", "ACGTA", "N" * 500, "ACGTANACGTA"])
def test_a_window_without_any_kmer_has_no_score(window):
    model = FallbackModel(6, np.ones(feature_count(6)), 0.0)

    assert np.isnan(model.score([window])).all()


def test_the_score_is_the_stated_formula():
    weights = np.zeros(feature_count(1))
    weights[:2] = 1.0, -2.0  # A or T, C or G
    weights[2] = 10.0  # AAA
    model = FallbackModel(1, weights, 0.5)

    (score,) = model.score([b"AAAAAACG"])  # the longest stretches: AAA AAA, AAA AAC, AAA ACG; CGT TTT, GTT TTT, TTT TTT

    kmers = (6 * 1 - 2 * 2) / np.hypot(6, 2)
    assert score == pytest.approx(1 / (1 + np.exp(-(kmers + 4 / 20 * 10 + 0.5))))


def test_fitting_tells_compositions_apart_and_calibration_moves_the_middle():
    random = np.random.default_rng(1)
    viral, other = random_windows(random, 80, 0.7), random_windows(random, 80, 0.4)
    truth = [True] * 80 + [False] * 80
    rare = LabelledWindows(
        random_windows(random, 4, 0.55) + random_windows(random, 76, 0.55), [True] * 4 + [False] * 76
    )

    plain = fit_fallback(viral + other, truth, kmer=3)
    calibrated = plain.calibrated(calibration_line(plain, rare))

    assert ((plain.score(viral + other) >= 0.5) == truth).mean() > 0.95
    assert calibrated.score(rare.windows).mean() == pytest.approx(0.05, abs=0.01)
    assert plain.calibrated((1.0, 0.0)).to_bytes() == plain.to_bytes()


def test_weights_count_as_repeats():
    random = np.random.default_rng(2)
    windows = random_windows(random, 20, 0.6) + random_windows(random, 20, 0.5)
    truth = [True] * 20 + [False] * 20

    weighted = fit_fallback(windows, truth, [2.0] * 20 + [1.0] * 20, kmer=2)
    repeated = fit_fallback(windows[:20] + windows, [True] * 20 + truth, kmer=2)

    assert weighted.score(windows) == pytest.approx(repeated.score(windows), abs=1e-3)


def test_stored_and_read_back_it_scores_the_same():
    random = np.random.default_rng(3)
    windows = random_windows(random, 10, 0.6) + random_windows(random, 10, 0.4)
    model = fit_fallback(windows, [True] * 10 + [False] * 10, kmer=4)

    again = FallbackModel.from_bytes(model.to_bytes(), 4)

    assert again.score(windows).tobytes() == model.score(windows).tobytes()
    assert again.to_bytes() == model.to_bytes()


@pytest.mark.parametrize(
    ("content", "kmer", "message"),
    [
        (b"", 2, "not a safetensors file"),
        (FallbackModel(2, np.ones(74), 0.0).to_bytes(), 3, "a model on 3-mers"),
        (FallbackModel(2, np.full(74, np.nan), 0.0).to_bytes(), 2, "finite"),
    ],
)
def test_what_is_no_model_is_refused(content, kmer, message):
    with pytest.raises(ValueError, match=message):
        FallbackModel.from_bytes(content, kmer)
