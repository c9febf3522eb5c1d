"""Roll-ups: from the scores of a sequence's windows to one score of the sequence.

Every roll-up takes window scores of 0 (other) to 1 (virus), 0.5 undecided, at least one of them, and gives a score on
the same scale. A bundle names the one that its thresholds were chosen with. Choosing one belongs to `training`.
"""

import math
from collections.abc import Callable, Sequence

#: Window scores, and of each whether it comes from open frames (else from the fallback) -> sequence score.
RollUp = Callable[[Sequence[float], Sequence[bool]], float]

_SUREST = 0.99
"""Scores count as at most this sure where logits are taken: no single window decides a sequence."""
_FALLBACK_WEIGHT = 0.5


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _logit(score: float) -> float:
    score = min(max(score, 1 - _SUREST), _SUREST)
    return math.log(score / (1 - score))


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def highest(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Take the highest window score."""
    return max(scores)


def mean(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Average the window scores."""
    return _mean(scores)


def mean_frames_first(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Average over the windows with open frames; over the others only where there is no such window."""
    return _mean([score for score, frame in zip(scores, from_frame, strict=True) if frame] or scores)


def contig_score(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Take VirNucPro's published contig score, sum(d sqrt|d|) / sum(sqrt|d|), brought from -1..1 to 0..1.

    d = P(virus) - P(others) of a window, here 2 score - 1.
    Source: broadinstitute/viral-pipelines, `classify_virnucpro_contigs`.
    """
    differences = [2 * score - 1 for score in scores]
    roots = [math.sqrt(abs(d)) for d in differences]
    total = math.fsum(roots)
    if not total:
        return 0.5
    return (math.fsum(d * root for d, root in zip(differences, roots, strict=True)) / total + 1) / 2


def mean_logit(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Average the windows' logits, as a probability: sure windows weigh more than in `mean`."""
    return _expit(_mean([_logit(score) for score in scores]))


def weighted_logit(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Average as `mean_logit` does, with half the weight for windows that the fallback scored."""
    weights = [1.0 if frame else _FALLBACK_WEIGHT for frame in from_frame]
    logits = math.fsum(_logit(score) * weight for score, weight in zip(scores, weights, strict=True))
    return _expit(logits / math.fsum(weights))


def evidence(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Divide the sum of the logits by the root of their number: surer the more agree, less than if independent."""
    return _expit(math.fsum(map(_logit, scores)) / math.sqrt(len(scores)))


def viral_share(scores: Sequence[float], from_frame: Sequence[bool]) -> float:
    """Take the share of windows that are called virus (a tie is virus)."""
    return sum(score >= 0.5 for score in scores) / len(scores)


ROLL_UPS: dict[str, RollUp] = {
    "max": highest,
    "mean": mean,
    "mean_frames_first": mean_frames_first,
    "contig_score": contig_score,
    "mean_logit": mean_logit,
    "weighted_logit": weighted_logit,
    "evidence": evidence,
    "viral_share": viral_share,
}
