"""Fresh weights: distributed as those of Keras, and following from their seed."""

import keras
import numpy as np
import pytest
from conftest import to_numpy

from keras_ddpm.initializers import VarianceScaling


@pytest.mark.parametrize("shape", [(3, 3, 48, 64), (1, 1, 128, 96), (200, 100)])
def test_it_is_the_distribution_of_keras(shape):
    keras_own = keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform", seed=1)
    ours, theirs = (
        np.sort(to_numpy(draw(shape)).ravel()) for draw in (VarianceScaling(1), keras_own)
    )
    # The distance of Kolmogorov & Smirnov, which of two samples of n is beyond 1.95 sqrt(2 / n)
    # once in a thousand times.
    ranks = np.searchsorted(theirs, ours) / len(theirs)
    distance = np.abs(ranks - np.arange(len(ours)) / len(ours)).max()
    assert distance < 1.95 * np.sqrt(2 / len(ours))
    np.testing.assert_allclose(ours.var(), theirs.var(), rtol=0.05)
    np.testing.assert_allclose(ours[[0, -1]], theirs[[0, -1]], rtol=5e-3)


def test_weights_follow_from_the_seed():
    draws = [to_numpy(VarianceScaling(seed)((4, 6))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.1
    keras.utils.set_random_seed(5)
    first, other = (to_numpy(VarianceScaling()((4, 6))) for _ in range(2))
    assert np.abs(first - other).max() > 0.1
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(to_numpy(VarianceScaling()((4, 6))), first)


def test_it_is_saved_with_its_seed_and_draws_in_any_precision():
    config = keras.initializers.serialize(VarianceScaling(7))
    draw = keras.initializers.deserialize(config)
    assert isinstance(draw, VarianceScaling)
    half = draw((8, 8), "bfloat16")
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    full = to_numpy(VarianceScaling(7)((8, 8)))
    np.testing.assert_allclose(to_numpy(keras.ops.cast(half, "float32")), full, rtol=1e-2)
