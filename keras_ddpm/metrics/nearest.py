"""Which training images are nearest to samples: does a model invent, or remember?"""

from typing import NamedTuple

import numpy as np

from keras_ddpm.metrics.extractors import check_images, extract
from keras_ddpm.plotting import image_grid
from keras_ddpm.validation import check_positive_int

ROWS, OTHER_ROWS = 256, 1024  # of samples and of training images that are compared at once
ROUNDING = 2.0**-24  # of a float32


class Memorisation(NamedTuple):
    """What `memorised_share` finds.

    Attributes:
        share: float, share of samples that are memorised.
        distance: float, median distance of a sample to its nearest training image.
        held_out_share, held_out_distance: the same of held-out images, or None.
    """

    share: float
    distance: float
    held_out_share: float | None = None
    held_out_distance: float | None = None


def memorised_share(samples, training_images, held_out_images=None, features=None):
    """How many samples are copies of training images.

    A sample counts as memorised if its nearest training image is at most a third as far as its
    second nearest: Yoon et al. (2023), "Diffusion Probabilistic Models Generalize when They Fail
    to Memorize". An image that is in the training set twice escapes unless it is copied exactly.

    No model can have memorised held-out images, so theirs is the share that chance, or nearly
    equal photographs, bring; and samples much nearer to the training images than the held-out
    ones are show memorisation even where no third is reached.

    Args:
        samples: images `(n, height, width, channels)`, uint8 or float in [-1, 1].
        training_images: images of the same size, at least two.
        held_out_images: optional images of the same size, which were not trained on.
        features: as for `nearest_neighbours`.

    Returns:
        A `Memorisation`.

    Raises:
        TypeError, ValueError: as `nearest_neighbours` does.

    Example:

    ```python
    found = memorised_share(model.generate(1000), images[:4000], held_out_images=images[4000:])
    print(f"{found.share:.1%} of the samples, {found.held_out_share:.1%} by chance")
    ```
    """

    def measure(images):
        _, distances = nearest_neighbours(images, training_images, k=2, features=features)
        nearest, second = distances.T
        return float(np.mean(nearest <= second / 3)), float(np.median(nearest))

    held_out = () if held_out_images is None else measure(held_out_images)
    return Memorisation(*measure(samples), *held_out)


def nearest_neighbours(samples, training_images, k=1, features=None):
    """The training images nearest to each sample.

    Candidates are found in float32, a block at a time, and those that rounding could confuse are
    measured again in float64: the result is exact, and in pixels it needs little more memory than
    the images. Of equally near ones the first comes first.

    Args:
        samples: images `(n, height, width, channels)`, uint8 or float in [-1, 1], which are
            rounded to 256 levels.
        training_images: images `(m, height, width, channels)`.
        k: int in [1, m], how many.
        features: optional extractor, see `extract`, whose features are compared. None compares
            pixels, which does not see what was moved or mirrored.

    Returns:
        Indices int64 `(n, k)` into `training_images`, nearest first, and their distances float64
        `(n, k)`: √Σ(difference²), of pixels scaled to [-1, 1] or of features.

    Raises:
        TypeError: if images are neither uint8 nor float, or k is no int.
        ValueError: if images have different sizes, or k is out of range.

    Example:

    >>> images, _ = draw_flowers(100)
    >>> nearest_neighbours(images[7:9], images)
    (array([[7], [8]]), array([[0.], [0.]]))
    """
    samples = check_images("samples", samples)
    training_images = check_images("training_images", training_images)
    if samples.shape[1:] != training_images.shape[1:]:
        raise ValueError(
            f"samples of shape {samples.shape} and training_images of shape "
            f"{training_images.shape} must be images of one size."
        )
    if check_positive_int("k", k) > len(training_images):
        raise ValueError(f"k={k} is more than there are training images: {len(training_images)}.")
    if features is None:
        a, b, unit = samples, training_images, 127.5
    else:
        a, b, unit = extract(features, samples), extract(features, training_images), 1.0
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    blocks = [_nearest_rows(a[i : i + ROWS], b, k) for i in range(0, len(a), ROWS)]
    indices, distances = (np.concatenate(parts) for parts in zip(*blocks))
    return indices, distances / unit


def nearest_grid(samples, training_images, indices):
    """A picture of each sample, and to its right its nearest training images.

    Args:
        samples, training_images: as for `nearest_neighbours`.
        indices: ints `(n, k)`, as it returns.

    Returns:
        uint8 array `(grid_height, grid_width, channels)`.

    Raises:
        ValueError: if `indices` is not one row of them for each sample.

    Example:

    >>> indices, _ = nearest_neighbours(samples, images, k=3)
    >>> save_image("nearest.png", nearest_grid(samples, images, indices), scale=2)
    """
    samples = check_images("samples", samples)
    training_images = check_images("training_images", training_images)
    indices = np.asarray(indices)
    if indices.ndim != 2 or len(indices) != len(samples) or indices.dtype.kind not in "iu":
        raise ValueError(
            f"indices must be ints ({len(samples)}, k), a row for each sample, got "
            f"{indices.dtype} of shape {indices.shape}."
        )
    rows = np.concatenate([samples[:, None], training_images[indices]], axis=1)
    count, size = rows.shape[:2]
    groups = max(1, round(np.sqrt(count / size)))  # samples beside each other: about square
    return image_grid(rows.reshape(-1, *rows.shape[2:]), columns=groups * size)


def _nearest_rows(a, b, k):
    """Indices and distances `(n, k)` of the rows of `b` nearest to each of `a`."""
    squares, margins = _rough_squares(a, b)
    limits = np.partition(squares, k - 1, axis=1)[:, k - 1] + 2 * margins
    indices, distances = np.empty((len(a), k), "int64"), np.empty((len(a), k))
    for i, row in enumerate(a):
        candidates = np.flatnonzero(squares[i] <= limits[i])
        exact = _distances(row, b, candidates)
        order = np.argsort(exact, kind="stable")[:k]
        indices[i], distances[i] = candidates[order], exact[order]
    return indices, distances


def _rough_squares(a, b):
    """|a_i − b_j|² `(n, m)` by float32 products, and `(n,)` by how much each row may be wrong.

    A sum of d rounded products is wrong by at most d · 2⁻²⁴ |a| |b| (Higham 2002, "Accuracy and
    Stability of Numerical Algorithms", eq. 3.5); centring makes |a| and |b| small.
    """
    centre = b.mean(axis=0)
    a = (a - centre).astype("float32")
    squares_a = np.sum(np.square(a, dtype="float64"), axis=1)
    squares, largest = np.empty((len(a), len(b))), 0.0
    for i in range(0, len(b), OTHER_ROWS):
        block = (b[i : i + OTHER_ROWS] - centre).astype("float32")
        squares_b = np.sum(np.square(block, dtype="float64"), axis=1)
        squares[:, i : i + OTHER_ROWS] = squares_a[:, None] + squares_b - 2 * (a @ block.T)
        largest = max(largest, squares_b.max())
    # With |a| |b| <= (|a| + |b|)² / 4; the 8 are for rounding a, b and the differences.
    margins = (a.shape[1] + 8) * ROUNDING * (np.sqrt(squares_a) + np.sqrt(largest)) ** 2
    return squares, margins


def _distances(row, b, indices):
    """Distances of one row from rows of `b`, in float64."""
    chunks = (indices[i : i + OTHER_ROWS] for i in range(0, len(indices), OTHER_ROWS))
    row = row.astype("float64")
    return np.concatenate([np.linalg.norm(b[chunk] - row, axis=1) for chunk in chunks])
