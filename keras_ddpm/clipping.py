"""Keeping a predicted image in the range of images."""

import numbers

import numpy as np
from keras import ops


def check_clip_denoised(value):
    """Returns `value` if it is a bool, or a percentile in (0, 1)."""
    if isinstance(value, np.bool_):
        value = bool(value)
    if not isinstance(value, bool):
        if not isinstance(value, numbers.Real) or not 0 < value < 1:
            raise ValueError(
                f"clip_denoised={value!r} must be True, False, or a percentile between 0 and 1 "
                "for dynamic thresholding, such as 0.995."
            )
    return value


def clip_start(x_start, clip_denoised):
    """x̂₀ within [-1, 1].

    Args:
        x_start: float32 tensor `(batch, ...)`.
        clip_denoised: False leaves x̂₀ as it is; True clips it. A float p in (0, 1) is dynamic
            thresholding (Saharia et al. 2022, section 2.3): an image whose p-th percentile s of
            |x̂₀| exceeds 1 is clipped to [-s, s] and divided by s. Strong guidance then keeps its
            contrasts instead of saturating.

    Returns:
        float32 tensor like `x_start`.

    Raises:
        ValueError: for any other `clip_denoised`.
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
