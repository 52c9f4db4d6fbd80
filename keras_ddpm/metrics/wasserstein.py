"""How far apart two sets of points are, by optimal transport along lines."""

import numpy as np

from keras_ddpm.validation import check_positive_int


def sliced_wasserstein(points, others, directions=64, seed=0):
    """How far two sets of points are apart: 0 for equal sets, in the unit of the points.

    In one dimension, optimal transport takes the smallest to the smallest and so on; this is its
    mean over random directions: Bonneel et al. (2015), "Sliced and Radon Wasserstein Barycenters
    of Measures", with absolute differences.

    Args:
        points: floats `(n, features)`.
        others: floats `(n, features)`, as many.
        directions: int >= 1, how many.
        seed: int >= 0, of the directions.

    Returns:
        A float >= 0.

    Raises:
        ValueError: if the shapes differ.

    Example:

    >>> sliced_wasserstein(draw_moons(1000)[0], draw_moons(1000, seed=1)[0])  # two draws differ
    """
    points, others = np.asarray(points, "float64"), np.asarray(others, "float64")
    if points.ndim != 2 or points.shape != others.shape:
        raise ValueError(
            f"points and others must both be (n, features), got {points.shape} and {others.shape}."
        )
    check_positive_int("directions", directions)
    axes = np.random.default_rng(seed).standard_normal((points.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    return float(np.abs(np.sort(points @ axes, 0) - np.sort(others @ axes, 0)).mean())
