"""The random numbers of sampling: from one seed, one seed for each image and step."""

import keras
import numpy as np
from keras import ops

from keras_ddpm.validation import check_int

# The backend's dtype of seeds: PyTorch has no arithmetic for uint32.
SEED_DTYPE = "int32" if keras.backend.backend() == "torch" else "uint32"
# Only JAX can vectorise random numbers with a seed for each image.
map_images = ops.vectorized_map if keras.backend.backend() == "jax" else ops.map


def choose_seed(seed):
    """The seed given, or one that follows from `keras.utils.set_random_seed`."""
    return int(np.random.randint(2**31)) if seed is None else check_int("seed", seed, minimum=0)


def initial_noise(seed, shape):
    """x_T from NumPy's generator, so that a seed gives one x_T on every backend."""
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def step_seeds(seed, num_images, steps):
    """One number for each image; image i draws the noise of step s from `seeds[i] + s`.

    All these numbers differ, so the noise of an image does not depend on its batch.
    """
    offset = np.random.SeedSequence([seed, 1]).generate_state(1, "uint32")[0]
    return (offset + np.arange(num_images, dtype="uint64") * steps).astype("uint32")


def step_noise(seeds, step, shape):
    """Standard normal noise of one step, float32 `(len(seeds), *shape)`."""
    return map_images(lambda seed: keras.random.normal(shape, seed=_Seed(seed, step)), seeds)


class _Seed(keras.random.SeedGenerator):
    """A seed that is a tensor: Keras takes only ints and SeedGenerators."""

    def __init__(self, seed, step):
        self._value = ops.stack([ops.cast(seed, SEED_DTYPE), ops.cast(step, SEED_DTYPE)])

    def next(self, ordered=True):
        return self._value
