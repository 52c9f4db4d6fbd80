"""What `fit` takes: checks of shapes and dtypes while a step is traced, and tensors for the loss.

Values are checked inside the step, in `faults.py`.
"""

import keras
from keras import ops

from keras_ddpm.devices import process

KERAS_BATCH_SIZE = 32  # where none is given


def batch_sizes(x, batch_size=None):
    """The sizes of the batches that `x` will give over all processes, largest first; empty if
    unknown.
    """
    if hasattr(x, "batch_sizes"):
        return x.batch_sizes
    _, processes = process()  # each of which brings such a batch
    if hasattr(x, "shape"):  # Keras cuts arrays into batches, and the last one may be smaller
        size = min(batch_size or KERAS_BATCH_SIZE, len(x))
        sizes = [size, len(x) % size] if size else []
    else:
        sizes = [getattr(x, "batch_size", None)]
    return [size * processes for size in sizes if size]


def data_to_float(x, sample_shape):
    """Data as float32: uint8 images go from [0, 255] to [-1, 1], floats stay as they are."""
    if x.shape[1:] != sample_shape and None not in tuple(x.shape[1:]):
        raise ValueError(
            f"x holds samples of shape {tuple(x.shape[1:])}, but the network was built for "
            f"{sample_shape}. Resize or convert the data, or build the network with "
            "image_size and channels of the data."
        )
    if None in tuple(x.shape[1:]):  # TensorFlow, after batches of other shapes: fails if wrong
        x = ops.reshape(x, (ops.shape(x)[0], *sample_shape))
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "uint8":
        return ops.cast(x, "float32") / 127.5 - 1.0
    if "float" in dtype:
        return ops.cast(x, "float32")
    raise TypeError(f"x has dtype {dtype}; give uint8, or float in [-1, 1].")


def labels_to_int(labels, num_classes):
    """Class labels as an int32 tensor `(batch,)`."""
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
            f"labels have shape {shape}, but must be one class for each image, (batch,). "
            "For one-hot labels use `labels.argmax(-1)`."
        )
    if "int" not in dtype:
        raise TypeError(f"labels have dtype {dtype}, but must be ints.")
    return ops.cast(labels, "int32")


def stratified_timesteps(batch_size, timesteps, offset):
    """One timestep from each of `batch_size` equal parts of [0, T), int32 `(batch,)`.

    The mean over them estimates the loss over all timesteps with far less variance than
    independent draws. `offset` in [0, 1) is the position in each part.
    """
    parts = ops.cast(ops.arange(batch_size), "float32") + offset
    t = parts * (timesteps / ops.cast(batch_size, "float32"))
    return ops.minimum(ops.cast(t, "int32"), timesteps - 1)
