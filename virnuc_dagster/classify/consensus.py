"""From frame scores to verdicts: frame -> window -> sequence.

Window and frame rules are method.md §5. The step to sequences is this platform's own: the score of a window is
max P(virus) / (max P(virus) + max P(others)) over its frames, which is 0.5 exactly where the original's window verdict
changes; the score of a sequence is the mean over its scored windows; the bundle's thresholds turn it into a verdict.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What is said of a sequence; the first that fits, in this order."""

    INCOMPLETE = "incomplete"  #: a shard with one of its frames has no result yet; only in incomplete reports
    TOO_SHORT = "too short"
    NO_OPEN_FRAME = "no open frame"
    VIRAL = "viral"
    UNCERTAIN = "uncertain"
    NON_VIRAL = "non-viral"


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
    """One window of a sequence with the best scores of its frames.

    Attributes:
        id: Window id.
        start: First base, from 0.
        end: One past the last base.
        frames: Number of scored frames.
        others: max P(others) over the frames; None without frames.
        virus: max P(virus) over the frames; None without frames.
    """

    id: str
    start: int
    end: int
    frames: int
    others: float | None
    virus: float | None

    @property
    def is_virus(self) -> bool | None:
        """The original's window verdict; a tie is virus. None without a score."""
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
        return sum(window.score is not None for window in self.windows)


def score_windows(
    sequence_id: str, spans: Iterable[tuple[int, int]], frames: Iterable[FrameScore]
) -> Iterator[WindowScore]:
    """The windows of one sequence, with the frames that belong to them.

    Args:
        sequence_id: Id of the sequence.
        spans: (start, end) of its windows, in order.
        frames: All of its frames, in order; none of them if some have no result yet.

    Raises:
        AssertionError: A frame belongs to none of these windows, or is out of order.
    """
    pending = list(reversed(list(frames)))
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
        )
    if pending:
        raise AssertionError(f"{sequence_id}: frame {pending[-1].id} belongs to none of its windows")


def score_sequence(
    sequence_id: str,
    length: int,
    windows: Iterable[WindowScore],
    *,
    viral: float,
    non_viral: float,
    scored_share: float = 0.0,
    complete: bool = True,
) -> SequenceScore:
    """The verdict of one sequence.

    Args:
        sequence_id: Id of the sequence.
        length: Its bases.
        windows: All of its windows.
        viral: Least score of a viral sequence.
        non_viral: Greatest score of a non-viral one.
        scored_share: Least share of its windows that must be scored for either verdict.
        complete: Whether all of its frames have results; without, no score is given.
    """
    windows = tuple(windows)
    scores = [window.score for window in windows if window.score is not None]
    score = math.fsum(scores) / len(scores) if scores and complete else None
    if not complete:
        verdict = Verdict.INCOMPLETE
    elif length < 3:
        verdict = Verdict.TOO_SHORT
    elif score is None:
        verdict = Verdict.NO_OPEN_FRAME
    elif len(scores) < scored_share * len(windows):
        verdict = Verdict.UNCERTAIN
    elif score >= viral:
        verdict = Verdict.VIRAL
    elif score <= non_viral:
        verdict = Verdict.NON_VIRAL
    else:
        verdict = Verdict.UNCERTAIN
    return SequenceScore(sequence_id, length, windows, score, verdict)
