"""The fallback: a score for windows without an open frame, from their DNA alone.

A logistic regression on the `composition` of a window. Training and scoring; what decides where a fallback score is
used is `consensus`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virnuc_dagster.classify.composition import blocks, feature_count, features, kmer_count

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FallbackModel:
    """A fitted fallback, calibration included: P(virus) = expit(weights . features + bias).

    Attributes:
        kmer: Letters of a k-mer.
        weights: float64, one for each of `composition.features`.
        bias: Log-odds of a window that says nothing.
    """

    kmer: int
    weights: Floats
    bias: float

    def score(self, windows: Sequence[bytes | str]) -> Floats:
        """Compute P(virus) of each window, (N,), independent of the other windows and of the strand.

        NaN for a window without a single k-mer of A, C, G and T.
        """
        scores, kmers = np.empty(len(windows)), kmer_count(self.kmer)
        for rows, block in blocks(windows):
            found = features(block, self.kmer)
            empty = ~found[:, :kmers].any(axis=1)
            found *= self.weights
            # Summed feature by feature: the last bits of a matrix product depend on the number of rows.
            scores[rows] = _expit(found.sum(axis=1) + self.bias)
            scores[rows][empty] = np.nan
        return scores

    def calibrated(self, line: tuple[float, float]) -> FallbackModel:
        """Return the model with its log-odds put through a line (`calibration_line`)."""
        slope, offset = line
        return _as_stored(FallbackModel(self.kmer, self.weights * slope, self.bias * slope + offset))

    def to_bytes(self) -> bytes:
        """Write the model as a safetensors file: `weights` float32 and `bias` float32 (1,)."""
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
    strength: float = 0.1,
) -> FallbackModel:
    """Fit the logistic regression; it is to be calibrated (`calibration_line`).

    Fit it on windows of every kind: fitted on windows with open frames alone, it takes what has none (most of the
    human genome) for viral. Takes 9 KB of memory a window for k = 6.

    Args:
        windows: N texts.
        is_virus: Truth of each, (N,).
        sample_weight: Weight of each, (N,); None for equal weights.
        kmer: Letters of a k-mer.
        strength: C of the regression; less regularises more. With weights of mean 1; in cross-validation by group, less
            than 0.1 gained next to nothing, more lost.

    Raises:
        ValueError: All windows are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=strength, max_iter=1000)
    regression.fit(_all_features(windows, kmer), np.asarray(is_virus, dtype=bool), sample_weight)
    weights, bias = regression.coef_[0].astype(np.float64), float(regression.intercept_[0])
    return _as_stored(FallbackModel(kmer, weights, bias))


def calibration_line(model: FallbackModel, held_out: LabelledWindows) -> tuple[float, float]:
    """Find the line that makes probabilities of a model's log-odds (Platt scaling).

    It may be found with a model fitted on a part of the data, and then be given to one fitted on all of it.

    Args:
        model: A model that was not fitted on any of these windows' groups.
        held_out: Windows as the fallback will meet them: those without an open frame.

    Returns:
        Slope and offset.

    Raises:
        ValueError: All windows are of one class.
    """
    from sklearn.linear_model import LogisticRegression

    logit = _all_features(held_out.windows, model.kmer).astype(np.float64) @ model.weights + model.bias
    line = LogisticRegression(C=np.inf)
    line.fit(logit[:, None], np.asarray(held_out.is_virus, dtype=bool), held_out.sample_weight)
    return float(line.coef_[0, 0]), float(line.intercept_[0])


def _as_stored(model: FallbackModel) -> FallbackModel:
    """Round a model to the stored precision, so that a fitted model scores as the one read back."""
    return FallbackModel.from_bytes(model.to_bytes(), model.kmer)


def _all_features(windows: Sequence[bytes | str], kmer: int) -> NDArray[np.float32]:
    out = np.empty((len(windows), feature_count(kmer)), dtype=np.float32)
    for rows, block in blocks(windows):
        out[rows] = features(block, kmer)
    return out


def _expit(logit: Floats) -> Floats:
    """Apply the logistic function, without an overflow warning for any finite logit."""
    small = np.exp(-np.abs(logit))
    expit: Floats = np.where(logit >= 0, 1, small) / (1 + small)
    return expit
