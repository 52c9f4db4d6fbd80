"""Where a sampler's random numbers come from: one seed, and from it one for each image and step."""

import keras
import numpy as np
from keras import ops

# A seed dtype for each backend: torch has no uint32 arithmetic.
SEED_DTYPE = "int32" if keras.backend.backend() == "torch" else "uint32"
# Only JAX can vectorise random numbers that are seeded for each image.
map_images = ops.vectorized_map if keras.backend.backend() == "jax" else ops.map


def choose_seed(seed):
    """The seed given, or a fresh one."""
    return np.random.SeedSequence().entropy if seed is None else seed


def initial_noise(seed, shape):
    """x_T from NumPy's generator: one seed gives one x_T on every backend."""
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def step_seeds(seed, num_images, steps):
    """One number for each image; image i at step s draws its noise from `seeds[i] + s`.

    All of these differ, so an image's noise depends neither on the batch it is drawn in nor
    on its neighbours.
    """
    offset = np.random.SeedSequence([seed, 1]).generate_state(1, "uint32")[0]
    return (offset + np.arange(num_images, dtype="uint64") * steps).astype("uint32")


def step_noise(seeds, step, shape):
    """Standard normal noise of one step, each image's from its own seed."""
    return map_images(lambda seed: keras.random.normal(shape, seed=_Seed(seed, step)), seeds)


class _Seed(keras.random.SeedGenerator):
    """A seed that is a tensor: Keras takes only ints and SeedGenerators."""

    def __init__(self, seed, step):
        self._value = ops.stack([ops.cast(seed, SEED_DTYPE), ops.cast(step, SEED_DTYPE)])

    def next(self, ordered=True):
        return self._value
