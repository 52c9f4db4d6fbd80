"""The kernel distance against its definition, and its error against repeated draws."""

import numpy as np
import pytest

from keras_ddpm.metrics import kid

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
    value, error = kid(a, b)
    assert value == pytest.approx(by_definition(a, b), rel=1e-12)
    without_a = [by_definition(np.delete(a, i, 0), b) for i in range(9)]
    without_b = [by_definition(a, np.delete(b, j, 0)) for j in range(12)]
    variance = 8 * np.var(without_a) + 11 * np.var(without_b)  # the jackknife's
    assert error == pytest.approx(np.sqrt(variance), rel=1e-10)
    for block_size in (1, 7, 10):
        assert kid(b, a, block_size) == pytest.approx((value, error), rel=1e-10)


def test_closed_form_in_one_dimension():
    """(xy + 1)³ = 1 + 3xy + 3x²y² + x³y³: squared differences of the first three moments."""
    rng = np.random.default_rng(2)
    draws = [kid(rng.normal(1, 1, (200, 1)), rng.normal(0, 2, (300, 1))) for _ in range(200)]
    values, errors = np.transpose(draws)
    moments = np.array([[1, 2, 4], [0, 4, 0]])  # of N(1, 1) and N(0, 4)
    expected = np.sum([3, 3, 1] * (moments[0] - moments[1]) ** 2)
    assert abs(values.mean() - expected) < 3 * values.std() / np.sqrt(200)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)
