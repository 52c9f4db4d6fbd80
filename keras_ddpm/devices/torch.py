"""PyTorch: one device. Keras 3.15 has no distribution for it."""

import contextlib

import keras

REMEDY = (
    ". Keras trains on several with JAX or TensorFlow, not with PyTorch: choose "
    "KERAS_BACKEND=jax or tensorflow"
)
join_processes = None


def list_devices():
    return [str(keras.ops.zeros(()).device)]


def use(names):
    """There is nothing to choose from."""


def process():
    return 0, 1


def count(variables):
    return 1


def split_batch(function, variables):
    return function


alone = contextlib.nullcontext
