"""From frame scores to verdicts: frame -> window -> sequence.

Window and frame rules are method.md §5. The step to sequences is this platform's own: the score of a window is
max P(virus) / (max P(virus) + max P(others)) over its frames, which is 0.5 exactly where the original's window verdict
changes; a window without a frame takes P(virus) of the bundle's fallback, if it has one; the bundle's roll-up makes one
score of a sequence's window scores, and its thresholds turn that into a verdict.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan

from virnuc_dagster.classify.roll_up import ROLL_UPS


class Verdict(StrEnum):
    """What is said of a sequence; the first that fits, in this order."""

    INCOMPLETE = "incomplete"  #: a shard with one of its frames has no result yet; only in incomplete reports
    TOO_SHORT = "too short"
    NO_OPEN_FRAME = "no open frame"
    VIRAL = "viral"
    UNCERTAIN = "uncertain"
    NON_VIRAL = "non-viral"


class Source(StrEnum):
    """Where the score of a window comes from."""

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
    """

    id: str
    start: int
    end: int
    frames: int
    others: float | None
    virus: float | None
    source: Source

    @property
    def is_virus(self) -> bool | None:
        """The window verdict, with frames that of the original; a tie is virus. None without a score."""
        return None if self.virus is None or self.others is None else self.virus >= self.others

    @property
    def score(self) -> float | None:
        """0 to 1, 0.5 where `is_virus` changes; None without a score."""
        return None if self.virus is None or self.others is None else self.virus / (self.virus + self.others)


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """One input sequence with its windows and verdict."""

    id: str
    length: int
    windows: tuple[WindowScore, ...]
    score: float | None
    verdict: Verdict

    @property
    def scored_windows(self) -> int:
        """Windows that hold at least one scored frame."""
        return self._count(Source.FRAME)

    @property
    def fallback_windows(self) -> int:
        """Windows that hold none and were scored by the fallback."""
        return self._count(Source.FALLBACK)

    def _count(self, source: Source) -> int:
        return sum(window.source is source for window in self.windows)


def score_windows(
    sequence_id: str, spans: Iterable[tuple[int, int]], frames: Iterable[FrameScore] | None
) -> Iterator[WindowScore]:
    """The windows of one sequence, with the frames that belong to them.

    Args:
        sequence_id: Id of the sequence.
        spans: (start, end) of its windows, in order.
        frames: All of its frames, in order; None if some have no result yet.

    Raises:
        AssertionError: A frame belongs to none of these windows, or is out of order.
    """
    pending = list(reversed(list(frames or [])))
    without = Source.MISSING if frames is None else Source.NONE
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
        )
    if pending:
        raise AssertionError(f"{sequence_id}: frame {pending[-1].id} belongs to none of its windows")


def with_fallback(window: WindowScore, virus: float) -> WindowScore:
    """A window without a frame, with the fallback's score.

    Args:
        window: Its source is `none`.
        virus: P(virus) of the fallback; NaN if it could not score the window, which then stays as it is.
    """
    assert window.source is Source.NONE, window
    return window if isnan(virus) else replace(window, others=1 - virus, virus=virus, source=Source.FALLBACK)


def score_sequence(
    sequence_id: str,
    length: int,
    windows: Sequence[WindowScore],
    *,
    viral: float,
    non_viral: float,
    scored_share: float = 0.0,
    roll_up: str = "mean",
    complete: bool = True,
) -> SequenceScore:
    """The verdict of one sequence.

    Args:
        sequence_id: Id of the sequence.
        length: Its bases.
        windows: All of its windows.
        viral: Least score of a viral sequence.
        non_viral: Greatest score of a non-viral one.
        scored_share: Least share of its windows that must be scored, by frames or the fallback, for either verdict.
        roll_up: Name of the roll-up of window scores.
        complete: Whether all of its frames have results; without, no score is given.
    """
    windows = tuple(windows)
    scored = [(window.score, window.source is Source.FRAME) for window in windows if window.score is not None]
    score = None
    if scored and complete:
        score = ROLL_UPS[roll_up]([score for score, _ in scored], [from_frame for _, from_frame in scored])
    if not complete:
        verdict = Verdict.INCOMPLETE
    elif length < 3:
        verdict = Verdict.TOO_SHORT
    elif score is None:
        verdict = Verdict.NO_OPEN_FRAME
    elif len(scored) < scored_share * len(windows):
        verdict = Verdict.UNCERTAIN
    elif score >= viral:
        verdict = Verdict.VIRAL
    elif score <= non_viral:
        verdict = Verdict.NON_VIRAL
    else:
        verdict = Verdict.UNCERTAIN
    return SequenceScore(sequence_id, length, windows, score, verdict)
