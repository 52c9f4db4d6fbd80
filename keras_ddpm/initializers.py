"""How weights begin: the same numbers on every backend."""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("keras_ddpm")
class VarianceScaling(keras.initializers.VarianceScaling):
    """Ho et al.'s initialiser: uniform, with the variance 1 / (mean of fan-in and fan-out).

    The distribution is that of `keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform")`, but
    NumPy draws. So a seed gives the same weights on every backend, and JAX need not compile
    a draw for each shape.

    Args:
        seed: int, or None for one that follows from `keras.utils.set_random_seed`.

    Example:

    >>> VarianceScaling(seed=0)((3, 3, 8, 16)).shape
    (3, 3, 8, 16)
    """

    def __init__(self, seed=None):
        super().__init__(1.0, mode="fan_avg", distribution="uniform", seed=seed)

    def __call__(self, shape, dtype=None):
        """Weights `(..., inputs, outputs)` of a dense layer or a convolution."""
        fan_average = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
        # Uniform on [-limit, limit): its variance is limit² / 3, and to be 1 / fan_average.
        limit = math.sqrt(3 / fan_average)
        draw = np.random.default_rng(self.seed).random(shape, "float32")
        return ops.convert_to_tensor(limit * (2 * draw - 1), dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}
