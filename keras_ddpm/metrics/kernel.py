"""The kernel distance between two sets of features: an estimate without bias, and its error."""

import numpy as np

from keras_ddpm.metrics.statistics import check_features, check_same_columns
from keras_ddpm.validation import check_positive_int


def kernel_distance(features_a, features_b, block_size=512):
    """The squared maximum mean discrepancy with the kernel k(x, y) = (x·y / d + 1)³.

    Bińkowski et al. (2018), "Demystifying MMD GANs", measured generated images with it, on
    features of an Inception network ("KID"). It sees means, covariances and third moments, has no
    bias, whatever the numbers of samples, and takes no features for Gaussian.

    They average over random subsets. Here every pair counts, which is the same expectation with
    less variance, and the error is that of the jackknife: the distance without each sample in
    turn. For two sets of one distribution, where the leading term of the variance vanishes, that
    is too large by √2; elsewhere it is right for many samples.

    Args:
        features_a: float array `(n, d)`, n >= 3.
        features_b: float array `(m, d)`, m >= 3.
        block_size: int, rows whose kernel is in memory at once, `(block_size, max(n, m))`.

    Returns:
        Two floats: the distance, which may be negative, and its standard error.

    Raises:
        ValueError: if an array is not 2-D, has fewer than three rows, holds NaN or infinite
            values, or if the arrays have different numbers of columns.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> value, error = kernel_distance(rng.normal(size=(500, 8)), rng.normal(1, 1, (400, 8)))
    """
    a = check_features("features_a", features_a, minimum=3)
    b = check_features("features_b", features_b, minimum=3)
    check_same_columns(a.shape[1], b.shape[1])
    check_positive_int("block_size", block_size)
    n, m = len(a), len(b)
    within_a = _row_sums(a, a, block_size) - _self_kernel(a)
    within_b = _row_sums(b, b, block_size) - _self_kernel(b)
    between_a = _row_sums(a, b, block_size) / m
    between_b = _row_sums(b, a, block_size) / n
    # Gretton et al. (2012), "A Kernel Two-Sample Test", eq. 3: pairs of a sample with itself are
    # left out, or they would bias the estimate.
    value = within_a.sum() / (n * (n - 1)) + within_b.sum() / (m * (m - 1)) - 2 * between_a.mean()
    variance = _jackknife_variance(within_a, between_a) + _jackknife_variance(within_b, between_b)
    return float(value), float(np.sqrt(variance))


def _kernel(products, size):
    base = products / size + 1
    return base * base * base  # many times faster than a power


def _row_sums(a, b, block_size):
    """Σ_j k(a_i, b_j), a block of rows at a time."""
    blocks = (a[i : i + block_size] for i in range(0, len(a), block_size))
    return np.concatenate([_kernel(block @ b.T, a.shape[1]).sum(axis=1) for block in blocks])


def _self_kernel(a):
    return _kernel(np.sum(a * a, axis=1), a.shape[1])


def _jackknife_variance(within, between):
    """The part of the variance that one set's samples bring.

    Args:
        within: floats `(n,)`, sums of each sample's kernel with the set's other samples.
        between: floats `(n,)`, means of each sample's kernel with the other set.
    """
    n = len(within)
    # The estimate without sample i, up to what does not depend on i.
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    without -= 2 * (between.sum() - between) / (n - 1)
    return (n - 1) / n * np.sum((without - without.mean()) ** 2)
