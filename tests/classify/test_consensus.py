"""Frame -> window -> sequence, against rules written down once more by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_dagster.classify.consensus import (
    FrameScore,
    Reason,
    Source,
    Verdict,
    WindowScore,
    score_sequence,
    score_windows,
    with_fallback,
)
from virnuc_dagster.sequences.translation import KnownShares


def window(others, virus, number=1):
    source = Source.NONE if virus is None else Source.FRAME
    return WindowScore(f"s_chunk_{number}", 0, 500, int(virus is not None), others, virus, source)


def test_an_exact_tie_is_others_for_a_frame_and_virus_for_a_window():
    assert not FrameScore("s_chunk_1F1", 0.5, 0.5).is_virus
    assert window(0.5, 0.5).is_virus
    assert window(0.5, 0.5).score == 0.5


def test_a_window_takes_the_best_of_each_score_over_its_frames():
    frames = [FrameScore("s_chunk_2F1", 0.9, 0.1), FrameScore("s_chunk_2R3", 0.2, 0.8)]

    first, second = score_windows("s", [(0, 500), (500, 1000)], frames)

    assert (first.frames, first.is_virus, first.score) == (0, None, None)
    assert (second.frames, second.others, second.virus, second.is_virus) == (2, 0.9, 0.8, False)


def test_a_sequence_with_missing_frames_has_missing_windows():
    windows = list(score_windows("s", [(0, 500), (500, 600)], None))

    assert [(w.source, w.score) for w in windows] == [(Source.MISSING, None)] * 2


def test_a_fallback_score_is_a_score_but_counts_no_frame():
    scored = with_fallback(window(None, None), 0.8)

    assert (scored.source, scored.frames, scored.is_virus) == (Source.FALLBACK, 0, True)
    assert (scored.others, scored.score) == pytest.approx((0.2, 0.8))
    assert with_fallback(window(None, None), float("nan")) == window(None, None)
    with pytest.raises(AssertionError):
        with_fallback(window(0.1, 0.9), 0.5)


@pytest.mark.parametrize(("fallback", "verdict"), [(None, Verdict.NO_OPEN_FRAME), (0.9, Verdict.VIRAL)])
def test_without_an_open_frame_the_fallback_decides(fallback, verdict):
    windows = [window(None, None)] if fallback is None else [with_fallback(window(None, None), fallback)]

    result = score_sequence("s", 400, windows, viral=0.7, non_viral=0.3)

    assert (result.verdict, result.scored_windows, result.fallback_windows) == (
        verdict,
        0,
        len(windows) - (not fallback),
    )


def test_the_roll_up_is_the_named_one():
    windows = [window(0.9, 0.1), with_fallback(window(None, None, 2), 0.8)]

    scores = {
        name: score_sequence("s", 999, windows, viral=0.7, non_viral=0.3, roll_up=name).score
        for name in ("mean", "max", "mean_frames_first")
    }

    assert scores == pytest.approx({"mean": 0.45, "max": 0.8, "mean_frames_first": 0.1})


@pytest.mark.parametrize("frame", ["t_chunk_1F1", "s_chunk_3F1", "s_chunk_11F1"])
def test_a_frame_that_belongs_nowhere_is_an_error(frame):
    with pytest.raises(AssertionError, match=frame):
        list(score_windows("s", [(0, 500), (500, 600)], [FrameScore(frame, 0.5, 0.5)]))


@pytest.mark.parametrize(
    ("length", "windows", "complete", "verdict"),
    [
        (0, [], True, Verdict.TOO_SHORT),
        (2, [], True, Verdict.TOO_SHORT),
        (600, [window(None, None)], True, Verdict.NO_OPEN_FRAME),
        (600, [window(0.3, 0.7)], True, Verdict.VIRAL),
        (600, [window(0.7, 0.3)], True, Verdict.NON_VIRAL),
        (600, [window(0.5, 0.5)], True, Verdict.UNCERTAIN),
        (600, [window(0.3, 0.7)], False, Verdict.INCOMPLETE),
    ],
)
def test_the_first_verdict_that_fits(length, windows, complete, verdict):
    result = score_sequence("s", length, windows, viral=0.7, non_viral=0.3, complete=complete)
    assert result.verdict is verdict


@pytest.mark.parametrize(("scored", "verdict"), [(1, Verdict.UNCERTAIN), (2, Verdict.VIRAL)])
def test_too_few_scored_windows_are_no_evidence(scored, verdict):
    windows = [window(0.1, 0.9, n) for n in range(scored)] + [window(None, None, n) for n in range(scored, 20)]

    result = score_sequence("s", 9_999, windows, viral=0.7, non_viral=0.3, scored_share=0.1)

    assert (result.verdict, round(result.score, 6)) == (verdict, 0.9)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_score_is_the_mean_over_scored_windows(virus):
    windows = [window(None if v is None else 1 - v, v, n) for n, v in enumerate(virus)]
    scored = [v for v in virus if v is not None]

    result = score_sequence("s", 9_999, windows, viral=0.7, non_viral=0.3)

    assert result.scored_windows == len(scored)
    assert result.score == (pytest.approx(sum(scored) / len(scored)) if scored else None)


def test_what_is_known_behind_a_window_is_that_of_the_frames_that_gave_its_scores():
    frames = [FrameScore(f"s_chunk_1{name}", *scores) for name, scores in zip(
        ("F1", "F3", "R2"), ((0.1, 0.9), (0.7, 0.3), (0.5, 0.9)), strict=True
    )]  # fmt: skip
    shares = KnownShares(np.array([[0.2, 0, 0.8, 0, 0.9, 0], [0.2] * 6]), np.array([1.0, 0.4]))

    first, second = score_windows("s", [(0, 500), (500, 1000)], frames, shares)

    assert first.known == 0.8, "P(others) is that of F3; P(virus) that of R2, which is better known than F1"
    assert (second.known, with_fallback(second, 0.9).known) == (0.4, 0.4), "without a frame, that of its words"


@pytest.mark.parametrize(
    ("known", "unscored", "verdict", "reason"),
    [
        ([1.0] * 10, 0, Verdict.VIRAL, None),
        ([0.5] * 10, 0, Verdict.VIRAL, None),  # at least half is enough
        ([0.49] * 10, 0, Verdict.UNCERTAIN, Reason.TOO_LITTLE_KNOWN),
        ([1.0] + [0.0] * 19, 0, Verdict.UNCERTAIN, Reason.TOO_LITTLE_KNOWN),  # 5 % count
        ([1.0] * 2 + [0.0] * 18, 0, Verdict.VIRAL, None),  # 10 % count
        ([1.0], 19, Verdict.UNCERTAIN, Reason.FEW_WINDOWS_SCORED),
        ([1.0, 0.2], 28, Verdict.UNCERTAIN, Reason.FEW_WINDOWS_SCORED),  # known letters would not have been enough
    ],
)
def test_only_windows_that_are_known_count(known, unscored, verdict, reason):
    windows = [replace(window(0.1, 0.9, n), known=share) for n, share in enumerate(known)]
    windows += [window(None, None, n) for n in range(unscored)]

    result = score_sequence("s", 9_999, windows, viral=0.7, non_viral=0.3, scored_share=0.1, known_share=0.5)

    assert (result.verdict, result.reason) == (verdict, reason)
    assert result.scored_windows == sum(share >= 0.5 for share in known)
    assert result.score == (pytest.approx(0.9) if result.scored_windows else None)


@pytest.mark.parametrize(
    ("length", "unknown", "known_bases", "reason"),
    [
        (4, 0, 100, Reason.TOO_LITTLE_KNOWN),  # one codon fills its window
        (99, 0, 100, Reason.TOO_LITTLE_KNOWN),
        (100, 0, 100, None),
        (500, 401, 100, Reason.TOO_LITTLE_KNOWN),
        (500, 400, 100, None),
        (60, 0, 60, None),
        (4, 0, 0, None),
    ],
)
@pytest.mark.parametrize(("virus", "verdict"), [(0.9, Verdict.VIRAL), (0.1, Verdict.NON_VIRAL)])
def test_a_sequence_of_few_known_bases_is_not_called(length, unknown, known_bases, reason, virus, verdict):
    windows = [window(1 - virus, virus)]

    result = score_sequence(
        "s", length, windows, viral=0.7, non_viral=0.3, known_bases=known_bases, unknown_bases=unknown
    )

    assert (result.verdict, result.reason) == (Verdict.UNCERTAIN if reason else verdict, reason)
    assert (result.score, result.scored_windows) == (pytest.approx(virus), 1), "the score itself stays"


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ([0.0, 0.0], Reason.TOO_LITTLE_KNOWN),
        ([1.0, 1.0], None),  # stop codons, which are known: the verdict says it all
        ([1.0] * 19 + [0.0], None),  # one more window would not have been enough
    ],
)
def test_no_open_frame_for_want_of_known_letters_says_so(known, reason):
    windows = [replace(window(None, None, n), known=share) for n, share in enumerate(known)]

    result = score_sequence("s", 9_999, windows, viral=0.7, non_viral=0.3, scored_share=0.1)

    assert (result.verdict, result.reason) == (Verdict.NO_OPEN_FRAME, reason)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30), st.floats(0, 0.9), st.floats(0, 1))
def test_where_every_letter_is_known_the_rule_changes_nothing(virus, scored_share, known_share):
    windows = [window(None if v is None else 1 - v, v, n) for n, v in enumerate(virus)]
    limits = {"viral": 0.7, "non_viral": 0.3, "scored_share": scored_share}

    with_rule = score_sequence("s", 9_999, windows, known_share=known_share, **limits)
    without = score_sequence("s", 9_999, windows, known_share=0.0, **limits)

    assert (with_rule.score, with_rule.verdict, with_rule.reason) == (without.score, without.verdict, without.reason)
    assert with_rule.reason is not Reason.TOO_LITTLE_KNOWN
    assert (with_rule.verdict is Verdict.UNCERTAIN) == (with_rule.reason is not None)
