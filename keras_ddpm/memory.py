"""When memory runs out in training: finds the batch that fits, and says so."""

import gc

import keras
import numpy as np

from keras_ddpm.devices import count

MOST_TRIED = 256  # where nobody knows how large the batches were
# What TensorFlow, XLA, XLA's kernels on a CPU, PyTorch on a GPU and on a CPU, and NumPy say.
SIGNS = (
    "OOM when allocating",
    "RESOURCE_EXHAUSTED",
    "YNNPACK operation failed",  # it gives no reason: sizes are settled, so memory is what is left
    "out of memory",
    "can't allocate memory",
    "Unable to allocate",
)


def is_out_of_memory(error):
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def batch_size_advice(model, batch_size, reason):
    """What to do about it, in words. Smaller batches are tried on a copy of the model.

    To be called once the error is gone: its traceback holds what filled the memory.

    Args:
        model: the compiled `DiffusionModel` that ran out of memory.
        batch_size: images in a batch, None if that is not known.
        reason: str, what the error said.
    """
    tried = "these batches" if batch_size is None else f"batches of {batch_size}"
    devices = count(model.network.weights)
    if devices > 1:  # a copy of the model would have to be tried on all of them
        return (
            f"out of memory with {tried} on {devices} devices: take a smaller batch_size, a "
            f"multiple of {devices}, or more devices ({reason})."
        )
    fitting = find_batch_size(model, (batch_size or 2 * MOST_TRIED) // 2)
    if fitting is None:
        return (
            f"out of memory with {tried}, and with one image: take a smaller one, or network"
            f"{'' if model.remat else ', or remat=True (training.remat)'} ({reason})."
        )
    advice = f"out of memory with {tried}; batch_size={fitting} fits."
    if batch_size is not None:
        advice += (
            f" With gradient_accumulation_steps={-(-batch_size // fitting)} in the optimizer "
            "(training.gradient_accumulation in a configuration) a step is as large as before."
        )
    return f"{advice} ({reason})"


def find_batch_size(model, largest):
    """The first of `largest`, half of it, … with which a copy of `model` takes a step, or None."""
    size = largest
    while size >= 1:
        try:
            _step_of_a_copy(model, size)
            return size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        size //= 2
    return None


def _step_of_a_copy(model, size):
    # With an Adam of its own: on JAX nothing of the model can be read once a step has failed.
    copy = type(model).from_config(model.get_config())
    copy.compile(keras.optimizers.Adam(), jit_compile=model.jit_compile)
    images = np.zeros((size, *model.sample_shape), "float32")
    labels = None if model.num_classes is None else np.zeros(size, "int32")
    copy.train_on_batch(images, labels)
