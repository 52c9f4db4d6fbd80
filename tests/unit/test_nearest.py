"""Nearest training images, and the share of samples that are copies."""

import numpy as np
import pytest

from keras_ddpm.metrics import memorised_share, nearest, nearest_grid, nearest_neighbours
from keras_ddpm.plotting import image_grid

pytestmark = pytest.mark.once


def pictures(count, seed=0, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype="uint8")


@pytest.mark.parametrize("k", [1, 40])
def test_against_one_by_one(k, monkeypatch):
    monkeypatch.setattr(nearest, "ROWS", 7)  # several blocks, the last not full
    monkeypatch.setattr(nearest, "OTHER_ROWS", 16)
    samples, others = pictures(20), pictures(40, seed=1)
    others[30] = others[5]  # equally near: the first comes first
    samples[0] = others[5]
    indices, distances = nearest_neighbours(samples, others, k)
    differences = samples[:, None].astype("int64") - others.astype("int64")
    squares = np.sum(differences**2, axis=(2, 3, 4))
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    expected = np.sqrt(np.take_along_axis(squares, order, axis=1)) / 127.5  # of [-1, 1]
    np.testing.assert_allclose(distances, expected, rtol=1e-14)
    assert indices.dtype == np.int64


def test_differences_that_float32_cannot_see():
    """Large images, some levels apart: products in float32 are wrong by more than that."""
    others = pictures(1, shape=(64, 64, 3)).repeat(30, axis=0)
    base = others[:1].copy()
    for i, other in enumerate(others):
        other.flat[: 30 - i] ^= 1  # the last is nearest, at distance 1 / 127.5
    indices, distances = nearest_neighbours(base, others, k=30)
    np.testing.assert_array_equal(indices[0], np.arange(29, -1, -1))
    np.testing.assert_allclose(distances[0], np.sqrt(np.arange(1, 31)) / 127.5, rtol=1e-14)


def test_floats_are_rounded_as_files_are_and_features_are_compared_if_given():
    others = pictures(10)
    samples = others[[4, 2]] / np.float32(127.5) - 1 + np.float32(1e-3)
    indices, distances = nearest_neighbours(samples, others)
    np.testing.assert_array_equal(indices, [[4], [2]])
    np.testing.assert_array_equal(distances, 0)
    grey, samples = (
        np.uint8(values)[:, None, None, None] * np.ones((1, 4, 4, 1), "uint8")
        for values in ([10, 200, 90], [100, 240])
    )
    features = {"features": lambda images: images.mean((1, 2)) + 1e6}
    indices, distances = nearest_neighbours(samples, grey, k=2, **features)
    np.testing.assert_array_equal(indices, [[2, 0], [1, 2]])
    np.testing.assert_allclose(distances, [[10, 90], [40, 150]], rtol=1e-4)


def test_copies_are_memorised_and_held_out_images_are_not():
    data = pictures(60)
    training, held_out = data[:40], data[40:]
    noise = np.random.default_rng(2).integers(0, 9, training[:10].shape, dtype="uint8")
    copies = np.clip(training[:10].astype("int32") + noise, 0, 255).astype("uint8")
    share, _ = memorised_share(np.concatenate([copies, pictures(30, seed=3)]), training)
    assert share == 0.25
    (share, distance), (other, far) = (memorised_share(x, training) for x in (copies, held_out))
    assert (share, other) == (1, 0) and distance < far / 3
    assert distance == pytest.approx(np.median(nearest_neighbours(copies, training)[1]))
    # Copied exactly, from images that are in the training set twice: still a copy.
    assert memorised_share(training[:1], training[[0, 0, 1]]) == (1, 0)


def test_the_grid_shows_samples_beside_their_neighbours():
    for count, k, columns in ((3, 1, 2), (16, 1, 6), (5, 4, 5)):
        samples, others = pictures(count), pictures(9, seed=1)
        indices = np.random.default_rng(0).integers(9, size=(count, k))
        rows = [np.stack([sample, *others[row]]) for sample, row in zip(samples, indices)]
        expected = image_grid(np.concatenate(rows), columns=columns)
        np.testing.assert_array_equal(nearest_grid(samples, others, indices), expected)
