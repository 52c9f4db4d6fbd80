"""The Fréchet distance against closed forms and another way to compute it; streamed moments."""

import warnings

import numpy as np
import pytest

from keras_ddpm.metrics import (
    FeatureStatistics,
    frechet_bias,
    frechet_distance,
    frechet_distance_of_moments,
    moments,
)

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
    few, many = rng.normal(size=(64, 64)), rng.normal(size=(65, 64))
    with pytest.warns(UserWarning, match=r"features_b: 64 samples of 64 .*biased upward.*or more"):
        assert frechet_distance(many, few) > 10  # of one distribution, all the same
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(many, many)


def test_bias_is_what_equal_distributions_show():
    """A spectrum that falls as that of features does, so that 100 samples see most of it."""
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
    with pytest.raises(ValueError, match="count must be at least 2"):
        frechet_bias(a, count=1)
    # One feature of variance 1: 1 / n for the mean, 1 / 2(n - 1) for the deviation.
    one = with_moments(rng, np.zeros(1), np.eye(1), rows=50)
    assert frechet_bias(one) == pytest.approx(1 / 50 + 1 / 98, rel=1e-12)


@pytest.mark.parametrize("sizes", [(1,) * 30, (30,), (7, 1, 22), (15, 15)])
def test_streamed_moments_are_those_of_all_at_once(sizes):
    x = np.random.default_rng(7).normal(size=(30, 4)).astype("float32")
    statistics = FeatureStatistics()
    for batch in np.split(x, np.cumsum(sizes)[:-1]):
        assert statistics.update(batch) is statistics
    assert statistics.count == 30 and statistics.covariance.dtype == np.float64
    np.testing.assert_allclose(statistics.mean, x.astype("float64").mean(axis=0), rtol=1e-13)
    expected = np.cov(x.astype("float64"), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-12)


def test_streamed_moments_keep_their_digits_far_from_zero():
    """Sums of squares about 0 would leave nothing of deviations of 1 beside a mean of 1e9."""
    x = np.random.default_rng(8).integers(-5, 6, size=(1000, 3)).astype("float64")
    statistics = FeatureStatistics()
    for batch in np.split(x + 1e9, 50):
        statistics.update(batch)
    np.testing.assert_allclose(statistics.covariance, np.cov(x, rowvar=False), atol=1e-6)


def test_merged_statistics():
    x = np.random.default_rng(9).normal(3, 2, size=(50, 4))
    parts = [FeatureStatistics(part) for part in np.split(x, [5, 6, 30])]
    first, *others = parts
    kept = first.mean.copy()
    merged = FeatureStatistics()
    for part in parts:
        merged.merge(part)
    merged.merge(FeatureStatistics())  # of nothing
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), rtol=1e-12)
    np.testing.assert_array_equal(first.mean, kept)
    assert frechet_distance(merged, x[::2]) == pytest.approx(frechet_distance(x, x[::2]), rel=1e-9)


def test_statistics_refuse_and_stay_as_they_were():
    statistics = FeatureStatistics(np.eye(3))
    bad = np.zeros((5, 3))
    bad[[2, 4], 1] = np.nan
    with pytest.raises(ValueError, match="2 of 5 rows, first in row 5"):  # 3 rows came before
        statistics.update(bad)
    for batch in (np.zeros((0, 3)), np.zeros((2, 4)), np.zeros(3), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="features"):
            statistics.update(batch)
    with pytest.raises(ValueError, match="4 columns"):
        statistics.merge(FeatureStatistics(np.zeros((2, 4))))
    np.testing.assert_allclose(statistics.covariance, np.cov(np.eye(3), rowvar=False), rtol=1e-14)
    assert statistics.count == 3
    for few in (FeatureStatistics(), FeatureStatistics(np.zeros((1, 3)))):
        with pytest.raises(ValueError, match="at least 2 rows"):
            _ = few.covariance
        with pytest.raises(ValueError, match="features_b must have at least 2 rows"):
            frechet_distance(statistics, few)


def test_more_noise_and_a_lost_mode_are_farther():
    rng = np.random.default_rng(10)
    modes = rng.normal(0, 3, size=(5, 6))

    def draw(number=5, noise=0.0):
        x = modes[np.arange(2000) % number] + rng.normal(size=(2000, 6))
        return x + rng.normal(0, noise, x.shape)

    data = draw()
    by_noise = [frechet_distance(draw(noise=noise), data) for noise in (0, 0.5, 1, 2)]
    by_modes = [frechet_distance(draw(number), data) for number in (5, 4, 3, 2, 1)]
    assert by_noise == sorted(by_noise) and by_modes == sorted(by_modes)
    assert by_noise[1] > 3 * by_noise[0] and by_modes[1] > 3 * by_modes[0]


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
