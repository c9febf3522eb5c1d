"""From frame scores to verdicts: frame -> window -> sequence.

Window and frame rules are method.md §5. The step to sequences is this platform's own: the score of a window is
max P(virus) / (max P(virus) + max P(others)) over its frames, which is 0.5 exactly where the original's window verdict
changes; a window without a frame takes P(virus) of the bundle's fallback, if it has one; the bundle's roll-up makes one
score of a sequence's window scores, and its thresholds turn that into a verdict.

Evidence is what is known. N hides stop codons, so the less of a window is known, the more of its frames are open. A
window counts only if the share of known codons behind its score is at least the bundle's: of the frames that gave its
two scores, the lesser share; where the fallback gave them, of its words of six letters. What does not count keeps its
scores and its rows in every table, but has no part in the sequence's score. And a sequence of fewer known bases than
the bundle asks for is never called: its score is little better than chance, however many of its windows count.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan
from typing import TYPE_CHECKING

from virnuc_dagster.classify.roll_up import ROLL_UPS

if TYPE_CHECKING:
    from virnuc_dagster.sequences.translation import KnownShares

KNOWN_SHARE = 0.5
"""Least known share of a window that counts, of bundles that name none."""
KNOWN_BASES = 100
"""Least known bases of a sequence that is called, of bundles that name none: `bench/verdicts.py short`."""


class Verdict(StrEnum):
    """What is said of a sequence; the first that fits, in this order."""

    INCOMPLETE = "incomplete"  #: a shard with one of its frames has no result yet; only in incomplete reports
    TOO_SHORT = "too short"
    NO_OPEN_FRAME = "no open frame"
    VIRAL = "viral"
    UNCERTAIN = "uncertain"
    NON_VIRAL = "non-viral"


class Reason(StrEnum):
    """The reason why a sequence is not called; the first that fits, in this order."""

    TOO_LITTLE_KNOWN = "too_little_known"
    """Too few of its bases are known, or too few windows count and enough would if their letters were known."""
    FEW_WINDOWS_SCORED = "few_windows_scored"
    BETWEEN_THRESHOLDS = "between_thresholds"


class Source(StrEnum):
    """The source of the score of a window."""

    FRAME = "frame"
    FALLBACK = "fallback"  #: it has no open frame; the score is of its DNA alone
    NONE = "none"  #: no open frame, and no fallback that could score it
    MISSING = "missing"  #: its sequence is incomplete


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One frame's probabilities."""

    id: str
    others: float
    virus: float

    @property
    def window_id(self) -> str:
        """The frame's window: its id without the frame name."""
        return self.id[:-2]

    @property
    def index(self) -> int:
        """Place of the frame among F1 F2 F3 R1 R2 R3."""
        return 3 * (self.id[-2] == "R") + int(self.id[-1]) - 1

    @property
    def is_virus(self) -> bool:
        """The frame's label; an exact tie is `others`."""
        return self.virus > self.others


@dataclass(frozen=True, slots=True)
class WindowScore:
    """One window of a sequence with the best scores of its frames, or those of the fallback.

    Attributes:
        id: Window id.
        start: First base, from 0.
        end: One past the last base.
        frames: Number of scored frames.
        others: max P(others) over the frames, or of the fallback; None without a score.
        virus: max P(virus) over the frames, or of the fallback; None without a score.
        source: Where both come from.
        known: Share of what is known behind its scores: of the codons of the frame that gave `virus` or of the one that
            gave `others`, whichever is less (of equal scores, the better known frame gave it); without a frame, of
            the window's words of six letters.
    """

    id: str
    start: int
    end: int
    frames: int
    others: float | None
    virus: float | None
    source: Source
    known: float = 1.0

    @property
    def is_virus(self) -> bool | None:
        """The window verdict, with frames that of the original; a tie is virus. None without a score."""
        return None if self.virus is None or self.others is None else self.virus >= self.others

    @property
    def score(self) -> float | None:
        """The score of the window, 0 to 1, 0.5 where `is_virus` changes; None without a score."""
        return None if self.virus is None or self.others is None else self.virus / (self.virus + self.others)

    def counts(self, known_share: float) -> bool:
        """Tell whether it has a score that rests on enough known letters to have a part in a verdict."""
        return self.virus is not None and self.known >= known_share


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """One input sequence with its windows and verdict.

    Attributes:
        id: Its id.
        length: Its bases.
        windows: All of its windows.
        score: Roll-up of the windows that count; None if none does.
        verdict: What is said of it.
        reason: Why it is uncertain, or has no open frame for want of known letters; else None.
        known_share: Least known share of a window that counts.
        unknown_bases: How many of its bases are not A, C, G or T.
    """

    id: str
    length: int
    windows: tuple[WindowScore, ...]
    score: float | None
    verdict: Verdict
    reason: Reason | None = None
    known_share: float = KNOWN_SHARE
    unknown_bases: int = 0

    @property
    def scored_windows(self) -> int:
        """Windows that count, scored from frames."""
        return self._count(Source.FRAME)

    @property
    def fallback_windows(self) -> int:
        """Windows that count, scored by the fallback."""
        return self._count(Source.FALLBACK)

    @property
    def uncounted_windows(self) -> int:
        """Windows with a score that does not count."""
        return sum(w.virus is not None and not w.counts(self.known_share) for w in self.windows)

    def _count(self, source: Source) -> int:
        return sum(window.source is source and window.counts(self.known_share) for window in self.windows)


def score_windows(
    sequence_id: str,
    spans: Iterable[tuple[int, int]],
    frames: Iterable[FrameScore] | None,
    known: "KnownShares | None" = None,
) -> Iterator[WindowScore]:
    """Score the windows of one sequence by the frames that belong to them.

    Args:
        sequence_id: Id of the sequence.
        spans: (start, end) of its windows, in order.
        frames: All of its frames, in order; None if some have no result yet.
        known: What is known of its windows; None if every letter is.

    Raises:
        AssertionError: A frame belongs to none of these windows, or is out of order.
    """
    pending = list(reversed(list(frames or [])))
    without = Source.MISSING if frames is None else Source.NONE
    codons, words = (known.codons.tolist(), known.words.tolist()) if known else ([], [])
    for number, (start, end) in enumerate(spans, start=1):
        window_id = f"{sequence_id}_chunk_{number}"
        mine = []
        while pending and pending[-1].window_id == window_id:
            mine.append(pending.pop())
        yield WindowScore(
            id=window_id,
            start=start,
            end=end,
            frames=len(mine),
            others=max((frame.others for frame in mine), default=None),
            virus=max((frame.virus for frame in mine), default=None),
            source=Source.FRAME if mine else without,
            known=1.0 if not known else _known_behind(mine, codons[number - 1]) if mine else words[number - 1],
        )
    if pending:
        raise AssertionError(f"{sequence_id}: frame {pending[-1].id} belongs to none of its windows")


def _known_behind(frames: Sequence[FrameScore], shares: Sequence[float]) -> float:
    """Return the lesser known share of the frames that give a window its two scores."""
    known = [(frame, shares[frame.index]) for frame in frames]
    virus = max((frame.virus, share) for frame, share in known)[1]
    others = max((frame.others, share) for frame, share in known)[1]
    return min(virus, others)


def with_fallback(window: WindowScore, virus: float) -> WindowScore:
    """Give a window without a frame the fallback's score.

    Args:
        window: Its source is `none`.
        virus: P(virus) of the fallback; NaN if it could not score the window, which then stays as it is.
    """
    assert window.source is Source.NONE, window
    return window if isnan(virus) else replace(window, others=1 - virus, virus=virus, source=Source.FALLBACK)


def evidence(windows: Iterable[WindowScore], known_share: float) -> tuple[list[float], list[bool]]:
    """Collect what roll-ups take: scores of the windows that count, and whether each comes from frames."""
    counted = [(w.score, w.source is Source.FRAME) for w in windows if w.counts(known_share)]
    return [score for score, _ in counted if score is not None], [from_frame for _, from_frame in counted]


def score_sequence(
    sequence_id: str,
    length: int,
    windows: Sequence[WindowScore],
    *,
    viral: float,
    non_viral: float,
    scored_share: float = 0.0,
    known_share: float = KNOWN_SHARE,
    known_bases: int = KNOWN_BASES,
    roll_up: str = "mean",
    complete: bool = True,
    unknown_bases: int = 0,
) -> SequenceScore:
    """Decide the verdict of one sequence.

    Args:
        sequence_id: Id of the sequence.
        length: Its bases.
        windows: All of its windows.
        viral: Least score of a viral sequence.
        non_viral: Greatest score of a non-viral one.
        scored_share: Least share of its windows that must count, scored by frames or the fallback, for either verdict.
        known_share: Least known share of a window that counts.
        known_bases: Least known bases of the sequence for either verdict.
        roll_up: Name of the roll-up of window scores.
        complete: Whether all of its frames have results; without, no score is given.
        unknown_bases: How many of its bases are not A, C, G or T.
    """
    windows = tuple(windows)
    scores, from_frame = evidence(windows, known_share)
    score = ROLL_UPS[roll_up](scores, from_frame) if scores and complete else None
    reason: Reason | None = None
    if not complete:
        verdict = Verdict.INCOMPLETE
    elif length < 3:
        verdict = Verdict.TOO_SHORT
    elif all(window.virus is None for window in windows):
        verdict = Verdict.NO_OPEN_FRAME
        why = _why_few(windows, 0, scored_share, known_share)
        reason = why if why is Reason.TOO_LITTLE_KNOWN else None
    elif length - unknown_bases < known_bases:
        verdict, reason = Verdict.UNCERTAIN, Reason.TOO_LITTLE_KNOWN
    elif score is None or len(scores) < scored_share * len(windows):
        verdict, reason = Verdict.UNCERTAIN, _why_few(windows, len(scores), scored_share, known_share)
    elif score >= viral:
        verdict = Verdict.VIRAL
    elif score <= non_viral:
        verdict = Verdict.NON_VIRAL
    else:
        verdict, reason = Verdict.UNCERTAIN, Reason.BETWEEN_THRESHOLDS
    return SequenceScore(sequence_id, length, windows, score, verdict, reason, known_share, unknown_bases)


def _why_few(windows: Sequence[WindowScore], counted: int, scored_share: float, known_share: float) -> Reason:
    """Say why too few windows count; one without a score may have none for want of known letters too."""
    unknown = sum(window.known < known_share for window in windows)
    enough = counted + unknown >= scored_share * len(windows)
    return Reason.TOO_LITTLE_KNOWN if unknown and enough else Reason.FEW_WINDOWS_SCORED
