"""What `fit` takes: checks of shapes and dtypes while a step is traced, and tensors for the loss.

Values are checked inside the step, in `faults.py`.
"""

import keras
import numpy as np
from keras import ops

from keras_ddpm.devices import process
from keras_ddpm.model import faults

KERAS_BATCH_SIZE = 32  # where none is given
GIVE = (
    "give one array of samples, and one of labels where there are classes, as `fit(x, labels)` or "
    "as a data set of pairs (x, labels). From a dict take `(batch['image'], batch['label'])`; of a "
    "list make an array with `np.stack`."
)


def batch_sizes(x, batch_size=None):
    """The sizes of the batches that `x` will give over all processes, largest first; empty if
    unknown.
    """
    x = x["images"] if isinstance(x, dict) else x
    if hasattr(x, "batch_sizes"):
        return x.batch_sizes
    _, processes = process()  # each of which brings such a batch
    if hasattr(x, "shape"):  # Keras cuts arrays into batches, and the last one may be smaller
        size = min(batch_size or KERAS_BATCH_SIZE, len(x))
        sizes = [size, len(x) % size] if size else []
    else:
        sizes = [getattr(x, "batch_size", None)]
    return [size * processes for size in sizes if size]


def split_batch(data):
    """Images, conditions, labels and sample weights of a batch; what is missing is None."""
    x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict):
        return x, None, labels, sample_weight
    if "images" not in x or not x.keys() <= {"images", "condition", "labels"}:
        raise ValueError(
            f"x is a dict in each batch, with the keys {sorted(x)}: {GIVE} For a network with a "
            "condition its keys are 'images', 'condition' and, with classes, 'labels'."
        )
    return x["images"], x.get("condition"), x.get("labels", labels), sample_weight


def check_arrays(x, y, sample_weight, num_classes, condition_shape=None):
    """Refuses what Keras would take for several inputs, and what it would lose on the way."""
    if sample_weight is not None and y is None:
        raise ValueError(
            "sample_weight was given without y (labels): Keras would drop it. Pass a dataset "
            "whose batches are (x, labels, sample_weight)."
        )
    if condition_shape is not None and isinstance(x, dict):
        images, condition, labels, _ = split_batch((x, y))
        for name, value in {"condition": condition, "labels": labels}.items():
            if value is not None and np.shape(value)[:1] != np.shape(images)[:1]:
                raise ValueError(
                    f"{name} has shape {np.shape(value)}, but must be one for each of the "
                    f"{len(images)} images."
                )
        x, y = images, labels
    if x is None:
        raise TypeError(f"x=None: {GIVE}")
    if hasattr(x, "images") and not isinstance(x, keras.utils.PyDataset):
        raise TypeError(f"x={x!r}: make batches of it with `ImageDataset(x, batch_size=32)`.")
    for name, value in {"x": x, "y": y, "sample_weight": sample_weight}.items():
        if isinstance(value, list | tuple | dict):
            raise TypeError(f"{name} is a {type(value).__name__}: {GIVE}")
        if isinstance(value, np.ndarray) and (value.dtype.kind not in "biuf" or not value.size):
            raise TypeError(
                f"{name} has dtype {value.dtype} and shape {value.shape}, but must hold numbers."
            )
    check_label_array(y, num_classes)


def check_label_array(y, num_classes):
    """Refuses wrong labels in a NumPy array."""
    if isinstance(y, np.ndarray) and y.dtype.kind in "iu" and y.size and num_classes is not None:
        if y.min() < 0 or y.max() >= num_classes:
            raise faults.label_error(y.min(), y.max(), "in the data", num_classes)


def data_to_float(x, sample_shape, argument="x", options="image_size and channels"):
    """Data as float32: uint8 images go from [0, 255] to [-1, 1], floats stay as they are."""
    _check_tensor(f"{argument} is", x)
    if x.shape[1:] != sample_shape and None not in tuple(x.shape[1:]):
        raise ValueError(
            f"{argument} holds samples of shape {tuple(x.shape[1:])}, but the network was built "
            f"for {sample_shape}. Resize or convert the data, or build the network with "
            f"{options} of the data."
        )
    if None in tuple(x.shape[1:]):  # TensorFlow, after batches of other shapes: fails if wrong
        x = ops.reshape(x, (ops.shape(x)[0], *sample_shape))
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "uint8":
        return ops.cast(x, "float32") / 127.5 - 1.0
    if "float" in dtype:
        return ops.cast(x, "float32")
    raise TypeError(f"{argument} has dtype {dtype}; give uint8, or float in [-1, 1].")


def _check_tensor(name, value):
    if not hasattr(value, "shape"):
        raise TypeError(f"{name} a {type(value).__name__} in each batch: {GIVE}")
    if getattr(value.shape, "rank", 0) is None:
        raise ValueError(
            f"{name} a tensor with an unknown number of axes in each batch: give it a shape with "
            "`tf.ensure_shape`, in which a size may be None."
        )


def weights_to_float(sample_weight):
    """Sample weights as a float32 tensor `(batch,)`."""
    if len(sample_weight.shape) == 2 and sample_weight.shape[1] == 1:
        sample_weight = ops.squeeze(sample_weight, axis=1)
    if len(sample_weight.shape) != 1:
        raise ValueError(
            f"sample_weight has shape {tuple(sample_weight.shape)}, but must be one number for "
            "each image, (batch,)."
        )
    return ops.cast(sample_weight, "float32")


def check_label_tensor(labels, num_classes):
    """Class labels as a tensor of ints `(batch,)`, of the type in which they came."""
    if labels is None:
        raise ValueError(
            f"the network was built with num_classes={num_classes}, but the data have no labels. "
            "Give (images, labels), or build the network with num_classes=None."
        )
    _check_tensor("labels are", labels)
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
    return ops.convert_to_tensor(labels)


def stratified_timesteps(batch_size, timesteps, offset):
    """One timestep from each of `batch_size` equal parts of [0, T), int32 `(batch,)`.

    The mean over them estimates the loss over all timesteps with far less variance than
    independent draws. `offset` in [0, 1) is the position in each part.
    """
    parts = ops.cast(ops.arange(batch_size), "float32") + offset
    t = parts * (timesteps / ops.cast(batch_size, "float32"))
    return ops.cast(ops.minimum(t, float(timesteps - 1)), "int32")
