"""Clipping of the predicted image."""

import numpy as np
from keras import ops

from keras_ddpm.validation import check_number


def check_clip_denoised(value):
    """Returns `value` if it is a bool, or a percentile in (0, 1)."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        return check_number("clip_denoised", value, "(0, 1)")
    except (TypeError, ValueError):
        raise ValueError(
            f"clip_denoised={value!r} must be True, False, or a percentile in (0, 1) for dynamic "
            "thresholding, such as 0.995."
        ) from None


def clip_start(x_start, clip_denoised):
    """x̂₀, a float32 tensor `(batch, ...)`, clipped to [-1, 1].

    True clips x̂₀, False leaves it as it is. A float p in (0, 1) is dynamic thresholding (Saharia et
    al. 2022, section 2.3): an image whose p-th percentile s of |x̂₀| exceeds 1 is clipped to [-s, s]
    and divided by s. With strong guidance this keeps contrasts that clipping would saturate.

    >>> np.asarray(clip_start(ops.array([[0.5, 1.5]]), True))
    array([[0.5, 1. ]], dtype=float32)
    """
    clip_denoised = check_clip_denoised(clip_denoised)
    if clip_denoised is False:
        return x_start
    if clip_denoised is True:
        return ops.clip(x_start, -1.0, 1.0)
    pixels = ops.reshape(ops.abs(x_start), (ops.shape(x_start)[0], -1))
    s = ops.maximum(ops.quantile(pixels, clip_denoised, axis=1), 1.0)
    s = ops.reshape(s, (-1,) + (1,) * (len(x_start.shape) - 1))
    return ops.clip(x_start / s, -1.0, 1.0)
