"""Faults found inside a compiled step, and the errors that report them.

A compiled step cannot raise. It writes a code and two numbers into a small variable, and changes no
weight from then on, so that it is enough to read this variable after every 50 batches.
"""

import keras
from keras import ops

from keras_ddpm.validation import PIXEL_TOLERANCE

HEALTHY, BAD_PIXELS, BAD_LABELS, DIVERGED = 0, 1, 2, 3
BATCHES_BETWEEN_CHECKS = 50
# Parts of the messages of TensorFlow, XLA and PyTorch.
OUT_OF_MEMORY = ("OOM when allocating", "RESOURCE_EXHAUSTED", "out of memory", "allocate memory")


def examine_pixels(x, is_image):
    """`[code, smallest, largest]` of a float batch; points must only be finite."""
    low, high = ops.min(x), ops.max(x)
    limit = 1 + PIXEL_TOLERANCE if is_image else float("inf")
    magnitude = ops.abs(x)  # comparisons with NaN are false
    inside = ops.all(magnitude <= limit if is_image else magnitude < limit)
    return _report(inside, BAD_PIXELS, low, high)


def examine_labels(labels, num_classes):
    """`[code, smallest, largest]` of int labels."""
    low, high = ops.min(labels), ops.max(labels)
    inside = ops.logical_and(low >= 0, high < num_classes)
    return _report(inside, BAD_LABELS, low, high)


def examine_step(loss, gradients, may_overflow):
    """`[code, loss, sum of gradients]`; infinite or NaN entries make the sum infinite or NaN.

    With loss scaling (`may_overflow`) infinite gradients are normal: the optimizer skips them.
    """
    total = ops.zeros((), "float32")
    if gradients and not may_overflow:
        total = ops.sum(ops.stack([ops.sum(ops.cast(g, "float32")) for g in gradients]))
    finite = ops.logical_and(ops.isfinite(loss), ops.isfinite(total))
    return _report(finite, DIVERGED, loss, total)


def first_fault(*reports):
    """The first report whose code is not `HEALTHY`."""
    result = reports[-1]
    for report in reversed(reports[:-1]):
        result = ops.where(report[0] > 0, report, result)
    return result


def _report(is_fine, code, first, second):
    values = [ops.cast(v, "float32") for v in (code, first, second)]
    return ops.where(is_fine, ops.zeros((3,), "float32"), ops.stack(values))


def raise_fault(model, when):
    """Raises the fault that `model.fault` holds, and clears it; does nothing without one."""
    code, first, second = (float(v) for v in ops.convert_to_numpy(model.fault))
    if code != HEALTHY:
        model.fault.assign(ops.zeros((3,)))
    if code == BAD_PIXELS:
        raise ValueError(
            f"x holds values from {first:.4g} to {second:.4g} or NaN ({when}), but images must be "
            "uint8, or float in [-1, 1]; points must be finite. For floats in [0, 255] pass them "
            "as uint8, for floats in [0, 1] use 2 * x - 1. No weight was changed."
        )
    if code == BAD_LABELS:
        raise ValueError(
            f"labels run from {first:.0f} to {second:.0f} ({when}), but the network was built with "
            f"num_classes={model.num_classes}: use 0 to {model.num_classes - 1}. Labels that begin "
            "at 1 need `labels - 1`. No weight was changed."
        )
    if code == DIVERGED:
        raise FloatingPointError(
            f"the loss is {first:.4g} and the gradients sum to {second:.4g} ({when}): training "
            "diverged. The weights are those before that step. Try a lower learning rate, "
            "`clipnorm=1.0` in the optimizer, or a float32 dtype policy."
        )


def raise_memory_error(error, sizes):
    """Raises a MemoryError with advice, if a backend's error in training says so."""
    if any(sign in str(error) for sign in OUT_OF_MEMORY) and not isinstance(error, MemoryError):
        raise MemoryError(
            f"out of memory in training with batches of {sizes or 'unknown size'}: use a smaller "
            f"batch_size, smaller images, or UNet(remat=True) ({str(error).splitlines()[0]})."
        ) from error


class StopOnFault(keras.callbacks.Callback):
    """Ends `fit` with an exception after a step that reported a fault.

    Reading the variable makes the host wait for the device, so it is not read after each batch.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.next_check = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        if batch >= self.next_check:  # `batch` moves by steps_per_execution
            self.next_check = batch + BATCHES_BETWEEN_CHECKS
            self._check(batch)

    def on_epoch_end(self, epoch, logs=None):
        self._check("the last")

    def _check(self, batch):
        # `self.model`, not a reference of our own: on JAX this brings the variables up to date.
        raise_fault(self.model, f"epoch {self.epoch + 1}, at or before batch {batch}")
