"""Nearest training images, and the share of samples that are copies."""

import numpy as np
import pytest

from keras_ddpm.metrics import memorised_share, nearest, nearest_grid, nearest_neighbours

pytestmark = pytest.mark.once


def pictures(count, seed=0, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype="uint8")


def one_by_one(samples, others, k):
    """Distances in [-1, 1] by whole numbers, each pair for itself."""
    indices, distances = [], []
    for sample in samples.astype("int64"):
        squares = np.array([np.sum((sample - other) ** 2) for other in others.astype("int64")])
        order = np.argsort(squares, kind="stable")[:k]
        indices.append(order)
        distances.append(np.sqrt(squares[order]) / 127.5)
    return np.array(indices), np.array(distances)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_against_one_by_one(k, monkeypatch):
    monkeypatch.setattr(nearest, "ROWS", 7)  # several blocks, the last not full
    monkeypatch.setattr(nearest, "OTHER_ROWS", 16)
    samples, others = pictures(20), pictures(40, seed=1)
    others[30] = others[5]  # equally near: the first comes first
    indices, distances = nearest_neighbours(samples, others, k)
    expected_indices, expected = one_by_one(samples, others, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected, rtol=1e-14)
    assert indices.dtype == np.int64 and indices.shape == (20, k)


def test_differences_that_float32_cannot_see():
    """Large images, one level in one pixel apart: products alone are wrong by more than that."""
    base = pictures(1, shape=(64, 64, 3))
    others = np.repeat(base, 30, axis=0)
    for i, other in enumerate(others):
        other.flat[: 30 - i] ^= 1  # the last is nearest, at distance 1 / 127.5
    others = np.concatenate([others, pictures(5, seed=1, shape=(64, 64, 3))])
    indices, distances = nearest_neighbours(base, others, k=30)
    np.testing.assert_array_equal(indices[0], np.arange(29, -1, -1))
    np.testing.assert_allclose(distances[0], np.sqrt(np.arange(1, 31)) / 127.5, rtol=1e-14)


def test_floats_are_rounded_as_files_are():
    others = pictures(10)
    samples = others[[4, 2]] / np.float32(127.5) - 1 + np.float32(1e-3)
    indices, distances = nearest_neighbours(samples, others)
    np.testing.assert_array_equal(indices, [[4], [2]])
    np.testing.assert_array_equal(distances, 0)


def test_in_features():
    def brightness(images):
        return images.mean((1, 2, 3))[:, None] + 1e6  # far from 0: centring keeps the digits

    grey = np.uint8([10, 200, 90])[:, None, None, None] * np.ones((1, 4, 4, 1), "uint8")
    samples = np.uint8([100, 240])[:, None, None, None] * np.ones((1, 4, 4, 1), "uint8")
    indices, distances = nearest_neighbours(samples, grey, k=2, features=brightness)
    np.testing.assert_array_equal(indices, [[2, 0], [1, 2]])
    np.testing.assert_allclose(distances, [[10, 90], [40, 150]], rtol=1e-8)


def test_memorised_share():
    data = pictures(60)
    training, held_out = data[:40], data[40:]
    noise = np.random.default_rng(2).integers(0, 9, training[:10].shape, dtype="uint8")
    copies = np.clip(training[:10].astype("int32") + noise, 0, 255).astype("uint8")
    samples = np.concatenate([copies, pictures(30, seed=3)])
    found = memorised_share(samples, training, held_out)
    assert (found.share, found.held_out_share) == (0.25, 0.0)
    of_copies = memorised_share(copies, training, held_out)
    assert of_copies.share == 1 and of_copies.distance < of_copies.held_out_distance / 3
    assert memorised_share(held_out, training).held_out_share is None
    # Copied exactly, twice in the training set: still a copy.
    assert memorised_share(training[:1], training[[0, 0, 1]]).share == 1


@pytest.mark.parametrize("count, k, size", [(3, 1, (1, 2)), (16, 1, (6, 6)), (5, 4, (5, 5))])
def test_grid_shows_samples_beside_their_neighbours(count, k, size):
    samples, others = pictures(count), pictures(9, seed=1)
    indices = np.random.default_rng(0).integers(9, size=(count, k))
    grid = nearest_grid(samples, others, indices)
    assert grid.dtype == np.uint8 and grid.shape[2] == 3
    np.testing.assert_array_equal(grid[2:8, 2:7], samples[0])
    np.testing.assert_array_equal(grid[2:8, 9:14], others[indices[0, 0]])
    columns = (grid.shape[1] - 2) // 7
    assert columns % (k + 1) == 0  # a sample and its neighbours stay in one row


@pytest.mark.parametrize(
    "samples, others, k, error, message",
    [
        (pictures(2)[0], pictures(2), 1, ValueError, "samples must be"),
        (pictures(2), pictures(2)[:0], 1, ValueError, "training_images must be"),
        (pictures(2), pictures(2, shape=(5, 6, 3)), 1, ValueError, "of one size"),
        (pictures(2), pictures(3), 4, ValueError, "k=4 is more than .* 3"),
        (pictures(2), pictures(3), 0, ValueError, "k must be at least 1"),
        (pictures(2), pictures(3), 1.0, TypeError, "k must be an int"),
        (pictures(2).astype("int64"), pictures(3), 1, TypeError, "int64"),
        (pictures(2) * np.float32("nan"), pictures(3), 1, ValueError, "NaN"),
    ],
)
def test_refuses(samples, others, k, error, message):
    with pytest.raises(error, match=message):
        nearest_neighbours(samples, others, k)


@pytest.mark.parametrize("indices", [[0, 1], [[0]], [[0.0], [1.0]]])
def test_grid_refuses(indices):
    with pytest.raises(ValueError, match=r"indices must be ints \(2, k\)"):
        nearest_grid(pictures(2), pictures(3), indices)
