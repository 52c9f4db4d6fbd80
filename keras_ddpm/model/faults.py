"""Faults found inside a compiled step, and the errors that report them.

A compiled step cannot raise. It writes a code and two numbers into a small variable, and changes no
weight from then on, so that it is enough to read this variable after every 50 batches.
"""

import traceback
import warnings

import keras
import numpy as np
from keras import ops

from keras_ddpm.validation import PIXEL_TOLERANCE

# From the second on, a step with one of these changes nothing.
HEALTHY, NO_NEGATIVE, BAD_PIXELS, BAD_CONDITION, BAD_LABELS, BAD_WEIGHTS, DIVERGED = range(7)
BATCHES_BETWEEN_CHECKS = 50
ADVICE = (
    "Try a lower learning rate, `global_clipnorm=1.0` in the optimizer, or a float32 dtype policy."
)
# Parts of the messages of TensorFlow, XLA and PyTorch.
OUT_OF_MEMORY = ("OOM when allocating", "RESOURCE_EXHAUSTED", "out of memory", "allocate memory")


def examine_pixels(x, is_image, were_bytes):
    """`[code, smallest, largest]` of a float batch; points must only be finite."""
    low, high = ops.min(x), ops.max(x)
    limit = 1 + PIXEL_TOLERANCE if is_image else float("inf")
    magnitude = ops.abs(x)  # comparisons with NaN are false
    inside = ops.all(magnitude <= limit if is_image else magnitude < limit)
    report = _report(inside, BAD_PIXELS, low, high)
    if were_bytes or not is_image:
        return report
    return first_fault(report, _report(low < 0, NO_NEGATIVE, low, high))


def examine_condition(condition):
    """`[code, smallest, largest]` of conditions, which must only be finite."""
    is_fine = ops.all(ops.isfinite(condition))
    return _report(is_fine, BAD_CONDITION, ops.min(condition), ops.max(condition))


def examine_labels(labels, num_classes):
    """`[code, smallest, largest]` of int labels."""
    low, high = ops.min(labels), ops.max(labels)
    inside = ops.logical_and(low >= 0, high < num_classes)
    return _report(inside, BAD_LABELS, low, high)


def examine_weights(sample_weight):
    """`[code, smallest, largest]` of sample weights, which must be finite and not negative."""
    inside = ops.all(ops.logical_and(sample_weight >= 0, sample_weight < float("inf")))
    return _report(inside, BAD_WEIGHTS, ops.min(sample_weight), ops.max(sample_weight))


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
    """The first report of a fault, else the first that is `NO_NEGATIVE`, else a healthy one."""
    result = reports[-1]
    for report in reversed(reports[:-1]):
        is_first = ops.logical_and(report[0] > HEALTHY, result[0] <= NO_NEGATIVE)
        result = ops.where(ops.logical_or(report[0] > NO_NEGATIVE, is_first), report, result)
    return result


def is_healthy(report):
    """Whether a step may change the weights."""
    return report[0] <= NO_NEGATIVE


def _report(is_fine, code, first, second):
    values = [ops.cast(v, "float32") for v in (code, first, second)]
    return ops.where(is_fine, ops.zeros((3,), "float32"), ops.stack(values))


def label_error(low, high, when, num_classes):
    return ValueError(
        f"labels run from {low:.0f} to {high:.0f} ({when}), but the network was built with "
        f"num_classes={num_classes}: use 0 to {num_classes - 1}. Labels that begin at 1 need "
        "`labels - 1`. No weight was changed."
    )


def raise_fault(model, when):
    """Raises the fault that `model.fault` holds, and clears it; does nothing without one."""
    code, first, second = (float(v) for v in ops.convert_to_numpy(model.fault.value))
    if code != HEALTHY:
        model.fault.assign(ops.zeros((3,)))
    if code == BAD_PIXELS:
        raise ValueError(
            f"x holds values from {first:.4g} to {second:.4g} or NaN ({when}), but images must be "
            "uint8, or float in [-1, 1]; points must be finite. For floats in [0, 255] pass them "
            "as uint8, for floats in [0, 1] use 2 * x - 1. No weight was changed."
        )
    if code == BAD_CONDITION:
        raise ValueError(
            f"condition holds values from {first:.4g} to {second:.4g} or NaN ({when}), but must be "
            "finite. No weight was changed."
        )
    if code == BAD_LABELS:
        raise label_error(first, second, when, model.num_classes)
    if code == BAD_WEIGHTS:
        raise ValueError(
            f"sample_weight holds values from {first:.4g} to {second:.4g} or NaN ({when}), but "
            "must be finite numbers of at least 0. No weight of the network was changed."
        )
    if code == DIVERGED:
        check_weights(model, when)
        raise FloatingPointError(
            f"the loss is {first:.4g} and the gradients sum to {second:.4g} ({when}): training "
            f"diverged. The weights are those before that step. {ADVICE}"
        )
    return code


def check_weights(model, when):
    """Raises a FloatingPointError if a weight, trained or averaged, is NaN or infinite.

    The last step can do this with a finite loss and finite gradients.
    """
    for network in (model.network, model.ema_network):
        for weight in network.weights:
            if "float" in weight.dtype and not np.isfinite(ops.convert_to_numpy(weight)).all():
                raise FloatingPointError(
                    f"the weight {weight.path!r} of {network.name!r} is NaN or infinite ({when}): "
                    f"training diverged. Go back to a checkpoint or a saved model. {ADVICE}"
                )


def raise_memory_error(error, sizes):
    """Raises a MemoryError with advice, if a backend's error in training says so."""
    # A callback's own error is none of the training's.
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_ours = not isinstance(error, MemoryError) and not any(n.startswith("on_") for n in names)
    if is_ours and any(sign in str(error) for sign in OUT_OF_MEMORY):
        raise MemoryError(
            f"out of memory in training with batches of {sizes or 'unknown size'}: use a smaller "
            f"batch_size, smaller images, or UNet(remat=True) ({str(error).splitlines()[0]})."
        ) from error


class StopOnFault(keras.callbacks.Callback):
    """Ends `fit` with an exception after a step that reported a fault.

    Reading the variable makes the host wait for the device, so it is not read after each batch.
    """

    def on_train_begin(self, logs=None):
        self.is_first = True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.next_check = epoch, 1

    def on_train_batch_begin(self, batch, logs=None):
        if batch >= self.next_check:  # `batch` moves by steps_per_execution
            self.next_check = batch + BATCHES_BETWEEN_CHECKS
            self._check(f"up to batch {batch - 1}")

    def on_epoch_end(self, epoch, logs=None):
        self._check("up to its end")
        check_weights(self.model, f"epoch {epoch + 1}")

    def _check(self, when):
        # `self.model`, not a reference of our own: on JAX this brings the variables up to date.
        code = raise_fault(self.model, f"epoch {self.epoch + 1}, {when}")
        if code == NO_NEGATIVE and self.is_first:
            warnings.warn(
                "x: the first float images have no negative value. Images in [0, 1] need "
                "`2 * x - 1`: 0 is grey here, and -1 is black.",
                stacklevel=2,
            )
        self.is_first = False
