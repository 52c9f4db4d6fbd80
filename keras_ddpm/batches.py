"""What `fit` may be given, and how a batch of it becomes tensors for the loss.

Shapes and dtypes are checked here while the step is traced, before any work; values are
checked inside the step, in `faults.py`.
"""

import keras
from keras import ops

from keras_ddpm.devices import process

KERAS_BATCH_SIZE = 32  # what Keras takes where none is given


def batch_sizes(x, batch_size=None):
    """The sizes of the batches that `x` will give, as far as they are known beforehand.

    Args:
        x: what `fit` was given.
        batch_size: int or None, as given to `fit`.

    Returns:
        A list of ints, largest first, over all processes; empty if nothing is known.
    """
    if hasattr(x, "batch_sizes"):
        return x.batch_sizes
    _, processes = process()  # each of which brings such a batch
    if hasattr(x, "shape"):  # Keras cuts arrays, and leaves the rest in
        size = min(batch_size or KERAS_BATCH_SIZE, len(x))
        sizes = [size, len(x) % size] if size else []
    else:
        sizes = [getattr(x, "batch_size", None)]
    return [size * processes for size in sizes if size]


def to_float(x, sample_shape):
    """Data as float32: uint8 images go from [0, 255] to [-1, 1], floats stay as they are."""
    if x.shape[1:] != sample_shape and None not in tuple(x.shape[1:]):
        raise ValueError(
            f"x holds samples of shape {tuple(x.shape[1:])}, but the network was built for "
            f"{sample_shape}. Resize or convert the data, or build the network with "
            "image_size and channels of the data."
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "uint8":
        return ops.cast(x, "float32") / 127.5 - 1.0
    if "float" in dtype:
        return ops.cast(x, "float32")
    raise TypeError(f"x has dtype {dtype}; give uint8, or float in [-1, 1].")


def to_labels(labels, num_classes):
    """Class numbers as an int32 tensor `(batch,)`."""
    if labels is None:
        raise ValueError(
            f"the network was built with num_classes={num_classes}, but the data have no labels. "
            "Give (images, labels), or build the network with num_classes=None."
        )
    shape, dtype = tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype)
    if len(shape) == 2 and shape[1] == 1:
        labels = ops.squeeze(labels, axis=1)
    elif len(shape) != 1:
        raise ValueError(
            f"labels have shape {shape}, but must be one class number an image, (batch,). "
            "For one-hot labels use `labels.argmax(-1)`."
        )
    if "int" not in dtype:
        raise TypeError(f"labels have dtype {dtype}, but must be class numbers, ints.")
    return ops.cast(labels, "int32")


def check_label_names(names, num_classes):
    """The names of the classes as a list, or None."""
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != (num_classes or 0) or len(set(names)) != len(names):
        raise ValueError(
            f"label_names has {len(names)} names, {len(set(names))} of them different, but the "
            f"network has {num_classes or 'no'} classes: give each class a name of its own."
        )
    return names


def stratified_timesteps(batch_size, timesteps, offset):
    """One timestep from each of `batch_size` equal parts of [0, T), int32 `(batch,)`.

    The mean over them estimates the loss over all timesteps with far less variance than
    independent draws. `offset` in [0, 1) says where in its part each one lies.
    """
    parts = ops.cast(ops.arange(batch_size), "float32") + offset
    t = parts * (timesteps / ops.cast(batch_size, "float32"))
    return ops.minimum(ops.cast(t, "int32"), timesteps - 1)
