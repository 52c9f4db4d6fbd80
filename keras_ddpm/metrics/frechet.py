"""The Fréchet distance between two sets of features, taken for two Gaussians.

Dowson & Landau (1982) gave the closed form; Heusel et al. (2017) measured generated images with
it, on features of an Inception network. Here the features are whatever the caller computes.
"""

import warnings

import numpy as np

from keras_ddpm.metrics.statistics import FeatureStatistics, check_features, check_same_columns
from keras_ddpm.validation import check_positive_int


def frechet_distance(features_a, features_b):
    """d² = |μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), from samples of both.

    The estimate is biased upward by about 1 / n: two sets of one distribution do not give 0, but
    the sum of their `frechet_bias`. Only distances with equal numbers of samples compare.

    Args:
        features_a: float array `(n, d)`, n >= 2, or a `FeatureStatistics` that has seen as much.
        features_b: float array `(m, d)`, m >= 2, or a `FeatureStatistics`.

    Returns:
        A float, at least 0.

    Raises:
        ValueError: if an array is not 2-D, has fewer than two rows, holds NaN or infinite
            values, or if the arrays have different numbers of columns.

    Warns:
        UserWarning: if a set has no more samples than features.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(1000, 3))
    >>> round(frechet_distance(features, features + [2.0, 0.0, 0.0]), 9)
    4.0
    """
    a, b = _statistics("features_a", features_a), _statistics("features_b", features_b)
    check_same_columns(len(a.mean), len(b.mean))
    warn_if_singular("features_a", a, a.count)
    warn_if_singular("features_b", b, b.count)
    return frechet_distance_of_moments(a.mean, a.covariance, b.mean, b.covariance)


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
    # tr (AB)^½ with A = F Fᵀ and B = G Gᵀ: the sum of the singular values of Fᵀ G. Taking these,
    # not the square roots of eigenvalues, keeps rounding small where a covariance is singular.
    product = _factor(covariance_a).T @ _factor(covariance_b)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    shift = np.sum((mean_a - mean_b) ** 2)
    spread = np.trace(covariance_a) + np.trace(covariance_b)
    return max(float(shift + spread - 2 * overlap), 0.0)


def frechet_bias(features, count=None):
    """About how far `count` samples seem to be from the distribution they come from.

    That is the expected distance of their mean and covariance from the true ones, for Gaussians
    and to first order in 1 / n, with λ the eigenvalues of the covariance:

    Σ_i λ_i / n + Σ_ij (1 + δ_ij) λ_i λ_j / (λ_i + λ_j) / (2 (n − 1)).

    The second sum is the variance of a Wishart matrix in the metric of this distance. With fewer
    samples than features it is too small, as the directions they do not show are missing.

    Args:
        features: float array `(n, d)`, n >= 2, or a `FeatureStatistics`: where λ comes from.
        count: int >= 2, samples; None is n.

    Returns:
        A float, to be added for each of the two sets.

    Raises:
        TypeError, ValueError: as for `frechet_distance`, or if `count` is less than 2.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 1000, 8))  # 0 apart
    >>> frechet_bias(a) + frechet_bias(b), frechet_distance(a, b)
    """
    statistics = _statistics("features", features)
    count = check_positive_int("count", statistics.count if count is None else count, minimum=2)
    values = np.linalg.eigvalsh(statistics.covariance)
    values = values[values > 1e-14 * values.max()]
    pairs = np.outer(values, values) / np.add.outer(values, values)
    spread = (pairs.sum() + np.trace(pairs)) / (2 * (count - 1))
    return float(values.sum() / count + spread)


def warn_if_singular(name, statistics, count):
    """Warns if a covariance of `count` such samples has no full rank; `count` - 1 is the most."""
    size = len(statistics.mean)
    if count <= size:
        warnings.warn(
            f"{name}: {count} samples of {size} features, so their covariance is singular and the "
            f"Fréchet distance biased upward, by about {frechet_bias(statistics, count):.3g} or "
            "more for these samples alone. Take several times as many samples as features, or "
            "the kernel distance, which is unbiased.",
            stacklevel=3,
        )


def _factor(covariance):
    """F with F Fᵀ = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))  # rounding makes zeros negative


def _statistics(name, features):
    if isinstance(features, FeatureStatistics):
        if features.count < 2:
            raise ValueError(f"{name} must have at least 2 rows, got {features.count}.")
        return features
    return FeatureStatistics(check_features(name, features, minimum=2))
