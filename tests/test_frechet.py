"""The Fréchet distance against closed forms and another way to compute it."""

import numpy as np
import pytest

from keras_ddpm.metrics import frechet_distance, frechet_distance_of_moments, moments

pytestmark = pytest.mark.once


def random_covariance(rng, size, rank=None):
    factor = rng.normal(size=(size, rank or size))
    return factor @ factor.T


def with_moments(rng, mean, covariance, rows=50):
    """Samples whose mean and unbiased covariance are exactly these."""
    size = len(mean)
    x = rng.normal(size=(rows, size))
    x -= x.mean(axis=0)
    x = np.linalg.qr(x)[0] * np.sqrt(rows - 1)
    values, vectors = np.linalg.eigh(covariance)
    return mean + x @ (vectors * np.sqrt(np.maximum(values, 0))).T


def test_commuting_covariances():
    """With common axes, d² is a sum over axes: (μ − μ')² + (σ − σ')²."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    sigma_a, sigma_b = rng.uniform(0.1, 3, (2, 5))
    mean_a, mean_b = rng.normal(size=(2, 5))
    a = with_moments(rng, mean_a, axes * sigma_a**2 @ axes.T)
    b = with_moments(rng, mean_b, axes * sigma_b**2 @ axes.T)
    expected = np.sum((mean_a - mean_b) ** 2 + (sigma_a - sigma_b) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [2, 7, 64])
def test_any_covariances_against_scipy(size):
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(size)
    mean_a, mean_b = rng.normal(size=(2, size))
    covariance_a, covariance_b = random_covariance(rng, size), random_covariance(rng, size)
    cross = linalg.sqrtm(covariance_a @ covariance_b).real
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(covariance_a + covariance_b - 2 * cross)
    a = with_moments(rng, mean_a, covariance_a, rows=100)
    b = with_moments(rng, mean_b, covariance_b, rows=80)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_two_points_on_a_line():
    """d = 1 by hand: means 1 and 4, unbiased variances 2 and 8."""
    expected = 3**2 + (np.sqrt(2) - np.sqrt(8)) ** 2
    assert frechet_distance([[0.0], [2.0]], [[2.0], [6.0]]) == pytest.approx(expected, rel=1e-14)


def test_moments_are_those_of_numpy():
    x = np.random.default_rng(1).normal(size=(30, 4)).astype("float32")
    mean, covariance = moments(x)
    assert mean.dtype == covariance.dtype == np.float64
    np.testing.assert_allclose(mean, x.astype("float64").mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(x.astype("float64"), rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("rank", [2, 20])
def test_identical_sets_have_no_distance(rank):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 20)) + 5
    # Rounding alone is left, even where 18 of 20 directions are empty.
    assert 0 <= frechet_distance(x, x) < 1e-12 * np.trace(moments(x)[1])
    assert frechet_distance(x, rng.permutation(x)) < 1e-12 * np.trace(moments(x)[1])


def test_symmetric():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(60, 6)), rng.uniform(size=(40, 6))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_singular_covariances():
    """Gaussians on two planes that meet in a line: only that line is shared."""
    covariance_a, covariance_b = np.diag([4.0, 9.0, 0.0]), np.diag([0.0, 1.0, 16.0])
    zero = np.zeros(3)
    distance = frechet_distance_of_moments(zero, covariance_a, zero, covariance_b)
    assert distance == pytest.approx(4 + (3 - 1) ** 2 + 16, rel=1e-14)
    # All of one set in one point.
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3))
    expected = np.sum(x.mean(axis=0) ** 2) + np.trace(moments(x)[1])
    assert frechet_distance(x, np.zeros((10, 3))) == pytest.approx(expected, rel=1e-12)


def test_fewer_samples_than_features():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 10, 64))
    assert np.isfinite(frechet_distance(a, b))


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros(4), np.zeros((4, 1)), "features_a must be 2-D"),
        (np.zeros((4, 1)), np.zeros((2, 2, 2)), "features_b must be 2-D"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "3 columns and features_b 2"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 rows"),
        (np.zeros((4, 3)), np.zeros((0, 3)), "at least 2 rows"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "features_a holds NaN"),
        (np.zeros((4, 3)), np.full((4, 3), np.inf), "features_b holds NaN or infinite"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
