import numpy as np
import pytest

from virnuc_dagster.report.embedding_map import evenly, principal_plane


def plain(blocks):
    """The same by a full decomposition."""
    scaled = []
    for block in blocks:
        centred = block.astype(np.float64) - block.mean(axis=0, dtype=np.float64)
        spread = np.sqrt((centred**2).sum() / len(block))
        scaled.append(centred / spread if spread else centred)
    data = np.concatenate(scaled, axis=1)
    left, sizes, axes = np.linalg.svd(data, full_matrices=False)
    sign = np.array([np.sign(axis[np.abs(axis).argmax()]) for axis in axes[:2]])
    return left[:, :2] * sizes[:2] * sign, sizes[:2] ** 2 / (sizes**2).sum()


def test_the_plane_is_that_of_a_full_decomposition():
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(400, 3)) * [5, 2, 0.5]
    blocks = tuple((hidden @ rng.normal(size=(3, d)) + rng.normal(size=(400, d)) * 0.1).astype("f4") for d in (60, 90))

    places, explained = principal_plane(blocks)
    expected, shares = plain(blocks)

    np.testing.assert_allclose(places, expected, atol=1e-6)
    np.testing.assert_allclose(explained, shares, atol=1e-9)


def test_both_encoders_count_equally_and_the_sign_is_fixed():
    rng = np.random.default_rng(4)
    small, large = rng.normal(size=(50, 6)).astype("f4"), rng.normal(size=(50, 6)).astype("f4") * 1000
    np.testing.assert_allclose(principal_plane((small, large))[0], principal_plane((small, large / 1000))[0], atol=1e-5)
    np.testing.assert_allclose(principal_plane((small, large))[0], principal_plane((small, large))[0])


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_few_or_equal_frames_lie_on_one_place(rows, value):
    places, explained = principal_plane((np.full((rows, 4), value, "f4"), np.full((rows, 9), value, "f4")))
    assert places.shape == (rows, 2)
    assert np.abs(places).max() == 0
    assert explained == (0.0, 0.0)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (3, 5), (10, 4), (1000, 7), (7, 7)])
def test_samples_are_even_and_distinct(count, most):
    places = evenly(count, most)
    assert len(set(places.tolist())) == len(places) == min(count, most)
    assert all(0 <= place < count for place in places)
    assert np.ptp(np.diff(places)) <= 1 if len(places) > 2 else True
