"""The Fréchet distance between two sets of features, taken as two Gaussians.

Dowson & Landau (1982) gave the closed form; Heusel et al. (2017) measured generated images with
it, on features of an Inception network ("FID"). Here the features are any.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from keras_ddpm.metrics.extractors import check_features, check_features_pair
from keras_ddpm.validation import check_array, check_int


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """d² = |μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), from samples of both.

    The estimate is biased upward by about 1 / n: two sets of one distribution do not give 0, but
    the sum of their `frechet_bias`. Only distances with equal numbers of samples compare.

    The features are float arrays `(n, d)` and `(m, d)`, n, m >= 2. It warns if a set has no more
    samples than features. Returns a float, at least 0.

    >>> features = np.random.default_rng(0).normal(size=(1000, 3))
    >>> round(frechet_distance(features, features + [2.0, 0.0, 0.0]), 9)
    4.0
    """
    pair, moments = check_features_pair(features_a, features_b, minimum=2), []
    for name, features in zip(("features_a", "features_b"), pair):
        warn_if_singular(name, features, len(features))
        moments += [features.mean(0), _covariance(features)]
    return frechet_distance_of_moments(*moments)


def frechet_distance_of_moments(
    mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike
) -> float:
    """d² between two Gaussians, as `frechet_distance` between samples of them.

    Means are float64 `(d,)`; covariances float64 `(d, d)`, symmetric, possibly singular.

    >>> frechet_distance_of_moments(np.zeros(2), np.eye(2), np.ones(2), 4 * np.eye(2))
    4.0
    """
    mean_a = check_array("mean_a", mean_a, (None,))
    mean_b = check_array("mean_b", mean_b, mean_a.shape)
    # tr (AB)^½ with A = F Fᵀ and B = G Gᵀ is the sum of the singular values of Fᵀ G. This keeps
    # rounding small where a covariance is singular.
    size = len(mean_a)
    factor = _factor("covariance_a", covariance_a, size)
    product = factor.T @ _factor("covariance_b", covariance_b, size)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    shift = np.sum((mean_a - mean_b) ** 2)
    spread = np.trace(covariance_a) + np.trace(covariance_b)
    return max(float(shift + spread - 2 * overlap), 0.0)


def frechet_bias(features: ArrayLike, count: int | None = None) -> float:
    """The expected distance of `count` samples from their own distribution, about.

    For Gaussians and to first order in 1 / n, with λ the eigenvalues of the covariance, it is

    Σ_i λ_i / n + Σ_ij (1 + δ_ij) λ_i λ_j / (λ_i + λ_j) / (2 (n − 1)).

    The second sum is the variance of a Wishart matrix in the metric of this distance. With fewer
    samples than features it is too small, as some directions are missing.

    λ comes from `features`, a float array `(n, d)`; a `count` of None is n. A distance between two
    sets has the sum of their biases.

    >>> a, b = np.random.default_rng(0).normal(size=(2, 1000, 8))  # 0 apart
    >>> round(frechet_bias(a) + frechet_bias(b), 3), round(frechet_distance(a, b), 3)
    (0.052, 0.06)
    """
    features = check_features("features", features, minimum=2)
    count = check_int("count", len(features) if count is None else count, minimum=2)
    values = np.linalg.eigvalsh(_covariance(features))
    values = values[values > 1e-14 * values.max()]
    pairs = np.outer(values, values) / np.add.outer(values, values)
    spread = (pairs.sum() + np.trace(pairs)) / (2 * (count - 1))
    return float(values.sum() / count + spread)


def warn_if_singular(name, features, count):
    """Warns if the covariance of `count` such samples has no full rank; `count` - 1 is the most."""
    size = features.shape[1]
    if count <= size:
        warnings.warn(
            f"{name}: {count} samples of {size} features have a singular covariance, which biases "
            f"the Fréchet distance upward by {frechet_bias(features, count):.3g} or more. Take "
            "several times as many samples as features, or `kid`, which is unbiased.",
            stacklevel=3,
        )


def _covariance(features):
    return np.cov(features, rowvar=False).reshape(2 * features.shape[1:])


def _factor(name, covariance, size):
    """F with F Fᵀ = covariance."""
    covariance = check_array(name, covariance, (size, size))
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
        raise ValueError(f"{name} is not symmetric, so it is no covariance.")
    values, vectors = np.linalg.eigh(covariance)
    if values.min() < -1e-6 * max(values.max(), 1e-12):  # rounding makes zeros slightly negative
        raise ValueError(f"{name} has the eigenvalue {values.min():.3g}, so it is no covariance.")
    return vectors * np.sqrt(np.maximum(values, 0))
