"""The kernel distance against its definition, and its error against repeated draws."""

import numpy as np
import pytest

from keras_ddpm.metrics import kernel_distance

pytestmark = pytest.mark.once


def by_definition(a, b):
    """Three sums over pairs, one pair after the other."""

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y)) / len(x) + 1) ** 3

    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    between = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    return sum(within) - 2 * between


def test_against_the_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)), rng.uniform(0, 2, size=(12, 4))
    value, error = kernel_distance(a, b)
    assert value == pytest.approx(by_definition(a, b), rel=1e-12)
    without_a = [by_definition(np.delete(a, i, 0), b) for i in range(9)]
    without_b = [by_definition(a, np.delete(b, j, 0)) for j in range(12)]
    variance = 8 * np.var(without_a) + 11 * np.var(without_b)  # the jackknife's
    assert error == pytest.approx(np.sqrt(variance), rel=1e-10)


@pytest.mark.parametrize("block_size", [1, 7, 512, 5000])
def test_blocks_change_nothing(block_size):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(60, 3)), rng.normal(0.5, 1, size=(41, 3))
    expected = kernel_distance(a, b, block_size=60)
    assert kernel_distance(a, b, block_size=block_size) == pytest.approx(expected, rel=1e-10)


def test_closed_form_in_one_dimension():
    """(xy + 1)³ = 1 + 3xy + 3x²y² + x³y³: squared differences of the first three moments."""
    rng = np.random.default_rng(2)
    draws = [
        kernel_distance(rng.normal(1, 1, (200, 1)), rng.normal(0, 2, (300, 1))) for _ in range(200)
    ]
    values, errors = np.transpose(draws)
    moments = np.array([[1, 2, 4], [0, 4, 0]])  # of N(1, 1) and N(0, 4)
    expected = np.sum([3, 3, 1] * (moments[0] - moments[1]) ** 2)
    assert abs(values.mean() - expected) < 3 * values.std() / np.sqrt(200)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)


def test_no_bias_where_there_is_no_distance():
    """However few samples; and there the error is too large by √2."""
    rng = np.random.default_rng(3)
    draws = [kernel_distance(*rng.normal(size=(2, 25, 8))) for _ in range(1000)]
    values, errors = np.transpose(draws)
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(1000)
    assert (values < 0).any()
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.sqrt(2) * values.std(), rel=0.15)


def test_symmetric():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(60, 6)), rng.uniform(size=(40, 6))
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-10)


def test_more_noise_and_a_lost_mode_are_farther():
    rng = np.random.default_rng(5)
    modes = rng.normal(0, 3, size=(5, 6))

    def draw(number=5, noise=0.0):
        x = modes[np.arange(1000) % number] + rng.normal(size=(1000, 6))
        return x + rng.normal(0, noise, x.shape)

    data = draw()
    same, same_error = kernel_distance(draw(), data)
    assert abs(same) < 3 * same_error
    by_noise = [kernel_distance(draw(noise=noise), data)[0] for noise in (0, 0.7, 1.5, 3)]
    by_modes = [kernel_distance(draw(number), data)[0] for number in (5, 4, 3, 2, 1)]
    assert by_noise == sorted(by_noise) and by_modes == sorted(by_modes)
    assert min(by_noise[2], by_modes[1]) > 3 * same_error


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros(4), np.zeros((4, 1)), "features_a must be 2-D"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "3 columns and features_b 2"),
        (np.zeros((2, 3)), np.zeros((4, 3)), "features_a must have at least 3 rows"),
        (np.zeros((4, 3)), np.zeros((0, 3)), "features_b must have at least 3 rows, got 0"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "features_b holds NaN .* row 0"),
    ],
)
def test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(a, b)


def test_refuses_a_block_of_nothing():
    with pytest.raises(ValueError, match="block_size"):
        kernel_distance(np.zeros((3, 1)), np.zeros((3, 1)), block_size=0)
