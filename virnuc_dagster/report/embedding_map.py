"""A flat map of the embeddings: the two directions in which they vary most (PCA), from a sample of bounded size.

Both encoders count equally: each block of columns is divided by the root of its total variance. Axes have no sign of
their own; here the element of largest weight is positive, so that equal embeddings give equal maps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: At most this many frames, from this many shards, are on the map, spread evenly over the batch.
FRAMES_MAX = 4_000
SHARDS_MAX = 16
_OVERSAMPLED, _ITERATIONS = 8, 12

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddingMap:
    """Frames on a plane.

    Attributes:
        x, y: Coordinates (N,), in units of the scaled embeddings.
        explained: Share of the variance along each axis.
        sequence: Number of each frame's sequence, in input order (N,).
        virus: P(virus) of each frame (N,).
        frames: Frames of the batch that could have been on the map.
    """

    x: Float64Array
    y: Float64Array
    explained: tuple[float, float]
    sequence: npt.NDArray[np.int64]
    virus: npt.NDArray[np.float64]
    frames: int


def evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    """Choose at most `most` of the numbers 0..count-1, evenly spread; always the same ones.

    >>> evenly(10, 4).tolist()
    [0, 2, 5, 7]
    """
    return np.arange(min(count, most), dtype=np.int64) * count // max(1, min(count, most))


def principal_plane(blocks: tuple[npt.NDArray[np.float32], ...]) -> tuple[Float64Array, tuple[float, float]]:
    """Compute coordinates on the two main axes.

    Halko, Martinsson and Tropp 2011 (SIAM Review 53:217), randomised subspace iteration, here from a fixed start:
    a full decomposition of 4,000 x 3,328 takes half a minute.

    Args:
        blocks: One array (N, D) an encoder, rows of the same frames.

    Returns:
        (N, 2) coordinates and the share of the variance on each axis; zeros where nothing varies.
    """
    data = np.concatenate([_equal_weight(block.astype(np.float64)) for block in blocks], axis=1)
    total = float((data**2).sum())
    if total == 0.0:
        return np.zeros((len(data), 2)), (0.0, 0.0)
    width = min(2 + _OVERSAMPLED, *data.shape)
    basis = np.linalg.qr(data @ np.random.default_rng(0).standard_normal((data.shape[1], width)))[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(data @ np.linalg.qr(data.T @ basis)[0])[0]
    left, sizes, axes = np.linalg.svd(basis.T @ data, full_matrices=False)
    places = np.zeros((len(data), 2))
    shares = [0.0, 0.0]
    for axis in range(min(2, len(sizes))):
        sign = np.sign(axes[axis, np.abs(axes[axis]).argmax()]) or 1.0
        places[:, axis] = (basis @ left[:, axis]) * sizes[axis] * sign
        shares[axis] = float(sizes[axis] ** 2) / total
    return places, (shares[0], shares[1])


def _equal_weight(block: Float64Array) -> Float64Array:
    centred = block - block.mean(axis=0)
    spread = np.sqrt((centred**2).sum() / max(1, len(block)))
    return centred / spread if spread > 0 else centred
