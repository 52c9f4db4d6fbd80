"""The Fréchet distance against closed forms and SciPy, and its bias against repeated draws."""

import warnings

import numpy as np
import pytest
from scipy import linalg

from keras_ddpm.metrics import frechet_bias, frechet_distance, frechet_distance_of_moments

pytestmark = pytest.mark.once


def with_moments(rng, mean, covariance, rows=50):
    """Samples whose mean and unbiased covariance are exactly these."""
    x = rng.normal(size=(rows, len(mean)))
    x -= x.mean(axis=0)
    x = np.linalg.qr(x)[0] * np.sqrt(rows - 1)
    values, vectors = np.linalg.eigh(covariance)
    return mean + x @ (vectors * np.sqrt(np.maximum(values, 0))).T


@pytest.mark.parametrize("size", [2, 64])
def test_any_covariances_against_scipy(size):
    rng = np.random.default_rng(size)
    mean_a, mean_b = rng.normal(size=(2, size))
    covariance_a, covariance_b = (f @ f.T for f in rng.normal(size=(2, size, size)))
    cross = linalg.sqrtm(covariance_a @ covariance_b).real
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(covariance_a + covariance_b - 2 * cross)
    a = with_moments(rng, mean_a, covariance_a, rows=100)
    b = with_moments(rng, mean_b, covariance_b, rows=80)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a + 2.0**20, b + 2.0**20) == pytest.approx(expected, rel=1e-6)


def test_two_distances_by_hand():
    expected = (np.sqrt(2) - np.sqrt(8)) ** 2 + 3**2  # variances 2 and 8, means 1 and 4
    found = frechet_distance([[0.0], [2.0]], [[2.0], [6.0]])
    assert found == pytest.approx(expected, rel=1e-14)
    # Gaussians on two planes that meet in a line, of which they share only this line.
    covariance_a, covariance_b = np.diag([4.0, 9.0, 0.0]), np.diag([0.0, 1.0, 16.0])
    found = frechet_distance_of_moments(np.zeros(3), covariance_a, np.zeros(3), covariance_b)
    assert found == pytest.approx(4 + (3 - 1) ** 2 + 16, rel=1e-14)


def test_identical_sets_have_no_distance():
    """Rounding alone is left, even where 18 of 20 directions are empty."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 20)) + 5
    for other in (x, rng.permutation(x)):
        assert 0 <= frechet_distance(x, other) < 1e-12 * x.var(0).sum()


def test_no_more_samples_than_features_is_warned_of():
    rng = np.random.default_rng(5)
    few, many = rng.normal(size=(64, 64)), rng.normal(size=(65, 64))
    with pytest.warns(UserWarning, match=r"features_b: 64 samples of 64 .*upward by 10.* or more"):
        assert frechet_distance(many, few) > 10  # of one distribution, all the same
    with warnings.catch_warnings(action="error"):
        frechet_distance(many, many)


def test_the_bias_is_what_equal_distributions_show():
    """With a spectrum that falls as that of features does, so that 100 samples see most of it."""
    rng = np.random.default_rng(6)
    scale = 1 / np.arange(1, 41)
    found, expected = [], []
    for _ in range(30):
        a, b = rng.normal(size=(200, 40)) * scale, rng.normal(size=(100, 40)) * scale
        found.append(frechet_distance(a, b))
        expected.append(frechet_bias(a) + frechet_bias(b))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.1)
    assert frechet_bias(a, count=10**9) < 1e-8
    assert frechet_bias(np.ones((5, 3))) == 0
    # One feature of variance 1: 1 / n for the mean, 1 / 2(n - 1) for the deviation.
    one = with_moments(rng, np.zeros(1), np.eye(1), rows=50)
    assert frechet_bias(one) == pytest.approx(1 / 50 + 1 / 98, rel=1e-12)
