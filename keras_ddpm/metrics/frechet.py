"""The Fréchet distance between two sets of features, taken for two Gaussians.

Dowson & Landau (1982) gave the closed form; Heusel et al. (2017) measured generated images with
it, on features of an Inception network. Here the features are whatever the caller computes.
"""

import numpy as np


def frechet_distance(features_a, features_b):
    """d² = |μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), from samples of both.

    The estimate is biased upward by about 1 / n: two sets of one distribution do not give 0. Only
    distances with equal numbers of samples compare.

    Args:
        features_a: float array `(n, d)`, n >= 2.
        features_b: float array `(m, d)`, m >= 2.

    Returns:
        A float, at least 0.

    Raises:
        ValueError: if an array is not 2-D, has fewer than two rows, holds NaN or infinite
            values, or if the arrays have different numbers of columns.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(1000, 3))
    >>> round(frechet_distance(features, features + [2.0, 0.0, 0.0]), 9)
    4.0
    """
    a, b = _check("features_a", features_a), _check("features_b", features_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features_a has {a.shape[1]} columns and features_b {b.shape[1]}: both must be "
            "features of one kind."
        )
    return frechet_distance_of_moments(*moments(a), *moments(b))


def moments(features):
    """Mean `(d,)` and unbiased covariance `(d, d)` of features `(n, d)`, in float64."""
    features = np.asarray(features, "float64")
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance_of_moments(mean_a, covariance_a, mean_b, covariance_b):
    """d² between two Gaussians, as `frechet_distance` between samples of them.

    Args:
        mean_a, mean_b: float64 arrays `(d,)`.
        covariance_a, covariance_b: float64 arrays `(d, d)`, symmetric, possibly singular.

    Returns:
        A float, at least 0.

    Example:

    >>> frechet_distance_of_moments(np.zeros(2), np.eye(2), np.ones(2), 4 * np.eye(2))
    4.0
    """
    # tr (AB)^½ = tr (A^½ B A^½)^½: the sum of the singular values of A^½ B^½. Taking these, not
    # the square roots of eigenvalues, keeps rounding small where a covariance is singular.
    product = _square_root(covariance_a) @ _square_root(covariance_b)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    shift = np.sum((mean_a - mean_b) ** 2)
    spread = np.trace(covariance_a) + np.trace(covariance_b)
    return max(float(shift + spread - 2 * overlap), 0.0)


def _square_root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T  # rounding makes zeros negative


def _check(name, features):
    features = np.asarray(features, "float64")
    if features.ndim != 2:
        raise ValueError(f"{name} must be 2-D, (n, d), got shape {features.shape}.")
    if len(features) < 2:
        raise ValueError(f"{name} must have at least 2 rows for a covariance, got {len(features)}.")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds NaN or infinite values.")
    return features
