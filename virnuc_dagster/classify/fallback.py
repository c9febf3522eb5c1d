"""The fallback: a score for windows without an open frame, from the composition of their DNA alone.

A logistic regression on the k-mer counts of a window. Each k-mer and its reverse complement are one feature, so both
strands of a window get the same score; k-mers with a letter other than A, C, G, T are left out; the counts are divided
by their Euclidean norm, so that the score leans on the composition and, for short windows, stays near undecided.
Plain numpy: a scan of a megabase takes a few hundredths of a second.

Axes: N windows, F features (canonical k-mers, in the order of their codes; 2,080 for k = 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_UNKNOWN = 4
_CODE = bytes(b"ACGT".find(letter) if letter in b"ACGT" else _UNKNOWN for letter in bytes(range(256)).upper())
_BLOCK = 256
"""Windows counted at once: the table of their counts, 4 MB for k = 6, stays in the processor's cache."""


@cache
def feature_of_code(kmer: int) -> NDArray[np.int64]:
    """Feature of each base-5 k-mer code (A 0, C 1, G 2, T 3, any other letter 4), (5 ** kmer,).

    k-mers with another letter have the number one past the last feature.
    """
    codes = np.arange(5**kmer)
    digits = np.stack([codes // 5**place % 5 for place in reversed(range(kmer))])  # (kmer, 5 ** kmer)
    reverse = sum((3 - digits[place]) * 5**place for place in range(kmer))
    known = (digits < _UNKNOWN).all(axis=0)
    canonical = np.where(known, np.minimum(codes, np.where(known, reverse, 0)), -1)
    kept = np.unique(canonical[known])
    return np.where(known, np.searchsorted(kept, canonical), len(kept))


def feature_count(kmer: int) -> int:
    """Number of canonical k-mers."""
    return int(feature_of_code(kmer).max())


def kmer_counts(windows: Sequence[bytes | str], kmer: int) -> NDArray[np.int64]:
    """Count the canonical k-mers of each window.

    Args:
        windows: N texts; upper and lower case count alike.
        kmer: Letters of a k-mer.

    Returns:
        (N, F).
    """
    table, features = feature_of_code(kmer), feature_count(kmer)
    texts = [window.encode() if isinstance(window, str) else window for window in windows]
    # A letter that is no base after each window, and k - 1 more at the end: no k-mer reaches from one into the next.
    joined = b"".join(text + b"N" for text in texts) + b"N" * (kmer - 1)
    bases = np.frombuffer(joined.translate(_CODE), dtype=np.uint8)
    starts = len(bases) - kmer + 1
    codes = np.zeros(starts, dtype=np.int32)
    for place in range(kmer):
        codes *= 5
        codes += bases[place : place + starts]
    row = np.repeat(np.arange(len(texts)) * (features + 1), [len(text) + 1 for text in texts])
    counts = np.bincount(row + table[codes], minlength=len(texts) * (features + 1))
    return counts.reshape(len(texts), features + 1)[:, :features]


def normalised_counts(windows: Sequence[bytes | str], kmer: int) -> NDArray[np.float32]:
    """k-mer counts (N, F) with rows of Euclidean norm 1; a window without any k-mer has a row of zeros."""
    out = np.empty((len(windows), feature_count(kmer)), dtype=np.float32)
    for first, block in _blocks(windows):
        counts = kmer_counts(block, kmer)
        norm = np.sqrt(np.square(counts).sum(axis=1, keepdims=True))
        out[first : first + len(block)] = counts / np.maximum(norm, 1)
    return out


def _blocks(windows: Sequence[bytes | str]) -> Iterator[tuple[int, Sequence[bytes | str]]]:
    for first in range(0, len(windows), _BLOCK):
        yield first, windows[first : first + _BLOCK]


@dataclass(frozen=True, eq=False)
class FallbackModel:
    """A fitted fallback, calibration included: P(virus) = expit(weights . counts / |counts| + bias).

    Attributes:
        kmer: Letters of a k-mer.
        weights: float64 (F,).
        bias: Log-odds of a window that says nothing.
    """

    kmer: int
    weights: Floats
    bias: float

    def score(self, windows: Sequence[bytes | str]) -> Floats:
        """P(virus) of each window, (N,), independent of the other windows and of the strand.

        NaN for a window without a single k-mer of A, C, G and T.
        """
        scores = np.empty(len(windows))
        for first, block in _blocks(windows):
            counts = kmer_counts(block, self.kmer)
            norm = np.sqrt(np.square(counts).sum(axis=1))
            # No matrix product: its last bits depend on the number of rows.
            logit = (counts * self.weights).sum(axis=1) / np.where(norm > 0, norm, np.nan) + self.bias
            scores[first : first + len(block)] = _expit(logit)
        return scores

    def to_bytes(self) -> bytes:
        """The model as a safetensors file: `weights` float32 (F,) and `bias` float32 (1,)."""
        from safetensors.numpy import save

        return save({"weights": self.weights.astype(np.float32), "bias": np.array([self.bias], dtype=np.float32)})

    @classmethod
    def from_bytes(cls, content: bytes, kmer: int) -> FallbackModel:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: It is no safetensors file, or not a model of this k-mer length.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
        except SafetensorError as error:
            raise ValueError(f"not a safetensors file: {error}") from error
        wanted = {"weights": (feature_count(kmer),), "bias": (1,)}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != wanted:
            raise ValueError(f"holds {found}, a model on {kmer}-mers is {wanted}")
        if not all(t.dtype == np.float32 and np.isfinite(t).all() for t in tensors.values()):
            raise ValueError("holds values that are no finite float32 numbers")
        return cls(kmer, tensors["weights"].astype(np.float64), float(tensors["bias"][0]))


class LabelledWindows(NamedTuple):
    """Windows with their truth, (N,), and optional sample weights, (N,)."""

    windows: Sequence[bytes | str]
    is_virus: ArrayLike
    sample_weight: ArrayLike | None = None


def fit_fallback(
    windows: Sequence[bytes | str],
    is_virus: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    kmer: int = 6,
    strength: float = 1.0,
    calibration: LabelledWindows | None = None,
) -> FallbackModel:
    """Fit the logistic regression and calibrate it.

    Fit it on windows of every kind: fitted on windows with open frames alone, it takes what has none (most of the
    human genome) for viral. Takes 4 F bytes of memory a window.

    Args:
        windows: N texts.
        is_virus: Truth of each, (N,).
        sample_weight: Weight of each, (N,); None for equal weights.
        kmer: Letters of a k-mer.
        strength: C of the regression; less regularises more.
        calibration: Windows of groups that are not in `windows`, as the fallback will meet them: those without an
            open frame. A line through their log-odds (Platt scaling) is fitted and becomes part of the weights.

    Raises:
        ValueError: All windows are of one class, in either part.
    """
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=strength, max_iter=1000)
    regression.fit(normalised_counts(windows, kmer), np.asarray(is_virus, dtype=bool), sample_weight)
    weights = regression.coef_[0].astype(np.float64)
    bias = float(regression.intercept_[0])
    if calibration is not None:
        logit = normalised_counts(calibration.windows, kmer).astype(np.float64) @ weights + bias
        line = LogisticRegression(C=np.inf)
        line.fit(logit[:, None], np.asarray(calibration.is_virus, dtype=bool), calibration.sample_weight)
        slope = float(line.coef_[0, 0])
        weights, bias = weights * slope, bias * slope + float(line.intercept_[0])
    # Through the stored precision, so that the fitted model scores as the one read back.
    return FallbackModel.from_bytes(FallbackModel(kmer, weights, bias).to_bytes(), kmer)


def _expit(logit: Floats) -> Floats:
    """The logistic function; no overflow warning for any finite logit."""
    small = np.exp(-np.abs(logit))
    expit: Floats = np.where(logit >= 0, 1, small) / (1 + small)
    return expit
