"""What can go wrong inside a compiled step, and how the user hears of it.

A compiled step cannot raise. It writes a code and two numbers into one small variable instead,
and from then on changes no weight: so the variable may be read once in a while, and the
weights are still those before the fault.
"""

import keras
from keras import ops

HEALTHY, BAD_PIXELS, BAD_LABELS, DIVERGED = 0, 1, 2, 3
# Pixels may leave [-1, 1] by the rounding of a resize, not by more.
PIXEL_TOLERANCE = 1e-3


def examine_pixels(x, is_image):
    """`[code, smallest, largest]` for a float batch; points need only be finite."""
    low, high = ops.min(x), ops.max(x)
    limit = 1 + PIXEL_TOLERANCE if is_image else float("inf")
    magnitude = ops.abs(x)  # NaN compares false with everything
    inside = ops.all(magnitude <= limit if is_image else magnitude < limit)
    return _report(inside, BAD_PIXELS, low, high)


def examine_labels(labels, num_classes):
    """`[code, smallest, largest]` for int labels."""
    low, high = ops.min(labels), ops.max(labels)
    inside = ops.logical_and(low >= 0, high < num_classes)
    return _report(inside, BAD_LABELS, low, high)


def examine_step(loss, gradients, may_overflow):
    """`[code, loss, gradient sum]`: infinite or NaN entries make the sums so, too.

    With loss scaling (`may_overflow`) infinite gradients are normal: the optimiser skips them.
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
    """Raises what `model.fault` says, once; does nothing while it is healthy."""
    code, first, second = (float(v) for v in ops.convert_to_numpy(model.fault))
    if code != HEALTHY:
        model.fault.assign(ops.zeros((3,)))
    if code == BAD_PIXELS:
        raise ValueError(
            f"x holds values from {first:.4g} to {second:.4g} or NaN ({when}), but images must be "
            "uint8, or float in [-1, 1] without NaN; points must be finite. For floats in "
            "[0, 255] pass them as uint8, for floats in [0, 1] use 2 * x - 1. No weight was "
            "changed."
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


class StopOnFault(keras.callbacks.Callback):
    """Ends `fit` with an exception once a step has reported a fault.

    Reading the variable makes the host wait for the device, so it is read after the first
    batch, where wrong data show, and then once in `every` batches.
    """

    def __init__(self, every=50):
        super().__init__()
        self.every = every
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch % self.every == 0:
            self._check(batch)

    def on_epoch_end(self, epoch, logs=None):
        self._check("the last")

    def _check(self, batch):
        # `self.model`, not a kept reference: on JAX this brings the variables up to date.
        raise_fault(self.model, f"epoch {self.epoch + 1}, at or before batch {batch}")
