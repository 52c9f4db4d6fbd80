"""The training images nearest to samples: whether a model copies them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from keras_ddpm.metrics.extractors import extract
from keras_ddpm.pixels import to_uint8
from keras_ddpm.plotting import image_grid
from keras_ddpm.types import Extractor
from keras_ddpm.validation import check_function, check_images, check_int, to_array

ROWS, OTHER_ROWS = 256, 1024  # of samples and of training images that are compared at once


def memorised_share(
    samples: ArrayLike, training_images: ArrayLike, features: Extractor | None = None
) -> tuple[float, float]:
    """How many samples are copies of training images.

    A sample counts as memorised if its nearest training image is at most a third as far as its
    second nearest: Yoon et al. (2023), "Diffusion Probabilistic Models Generalize when They Fail
    to Memorize". For comparison measure held-out images as well, which are not copies.

    Arguments are those of `nearest_neighbours`. Returns two floats: the share of samples that are
    memorised, and the median distance of a sample to its nearest training image.

    >>> images, _ = draw_flowers(200, image_size=16)
    >>> memorised_share(images[:10], images[:150])
    (1.0, 0.0)
    """
    _, distances = nearest_neighbours(samples, training_images, k=2, features=features)
    nearest, second = distances.T
    return float(np.mean(nearest <= second / 3)), float(np.median(nearest))


def nearest_neighbours(
    samples: ArrayLike,
    training_images: ArrayLike,
    k: int = 1,
    features: Extractor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The training images nearest to each sample; of equally near ones the first comes first.

    Args:
        samples, training_images: images of one size `(n or m, height, width, channels)`, uint8 or
            float in [-1, 1], which are rounded to 256 levels.
        k: int in [1, m], how many.
        features: optional extractor, see `extract`, whose features are compared instead of pixels.

    Returns:
        Indices int64 `(n, k)` into `training_images`, nearest first, and their distances float64
        `(n, k)`: √Σ(difference²), of pixels scaled to [-1, 1] or of features.

    >>> images, _ = draw_flowers(100, image_size=16)
    >>> nearest_neighbours(images[7:9], images)[0].tolist()
    [[7], [8]]
    """
    samples = to_uint8(check_images("samples", samples))
    training_images = check_images("training_images", training_images, samples.shape[1:])
    training_images = to_uint8(training_images)
    if check_int("k", k) > len(training_images):
        raise ValueError(
            f"training_images has shape {training_images.shape}, so k={k} is more than there are."
        )
    if features is not None:
        check_function("features", features, "an extractor, a function of images")
    if features is None:
        a, b, unit = samples, training_images, 127.5
    else:
        a, b, unit = extract(features, samples), extract(features, training_images), 1.0
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    blocks = [_nearest_rows(a[i : i + ROWS], b, k) for i in range(0, len(a), ROWS)]
    indices, distances = (np.concatenate(parts) for parts in zip(*blocks))
    return indices, distances / unit


def nearest_grid(samples: ArrayLike, training_images: ArrayLike, indices: ArrayLike) -> np.ndarray:
    """A picture of each sample, with its nearest training images to the right.

    `indices` are ints `(n, k)`, as `nearest_neighbours` returns them. Returns uint8
    `(grid_height, grid_width, channels)`.

    >>> images, _ = draw_flowers(10)
    >>> nearest_grid(images[:2], images, [[0, 1], [1, 0]]).shape
    (70, 104, 3)
    """
    samples = to_uint8(check_images("samples", samples))
    shape = samples.shape[1:]
    training_images = to_uint8(check_images("training_images", training_images, shape))
    indices = to_array("indices", indices)
    if indices.ndim != 2 or len(indices) != len(samples) or indices.dtype.kind not in "iu":
        raise ValueError(f"indices of shape {indices.shape} must be ints ({len(samples)}, k).")
    if indices.min() < 0 or indices.max() >= len(training_images):
        raise ValueError(f"indices must lie in [0, {len(training_images) - 1}].")
    rows = np.concatenate([samples[:, None], training_images[indices]], axis=1)
    count, size = rows.shape[:2]
    groups = max(1, round(np.sqrt(count / size)))  # samples beside each other: about square
    return image_grid(rows.reshape(-1, *rows.shape[2:]), columns=groups * size)


def _nearest_rows(a, b, k):
    """Indices and distances `(n, k)` of the rows of `b` nearest to each of `a`.

    In float64 |a|² + |b|² − 2 a·b is exact for pixels, which are small ints.
    """
    a, squares = a.astype("float64"), []
    for i in range(0, len(b), OTHER_ROWS):
        block = b[i : i + OTHER_ROWS].astype("float64")
        squares.append(np.sum(block**2, axis=1) - 2 * a @ block.T)
    squares = np.concatenate(squares, axis=1) + np.sum(a**2, axis=1, keepdims=True)
    indices = np.empty((len(a), k), "int64")
    for i, row in enumerate(squares):
        candidates = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])  # all of equal ones
        indices[i] = candidates[np.argsort(row[candidates], kind="stable")[:k]]
    nearest = np.take_along_axis(squares, indices, axis=1)
    return indices, np.sqrt(np.maximum(nearest, 0))  # rounding of features makes zeros negative
