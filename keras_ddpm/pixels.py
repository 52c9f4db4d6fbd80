"""Pixels as bytes in [0, 255] and as floats in [-1, 1]."""

import numpy as np

from keras_ddpm.validation import to_array


def to_float(images) -> np.ndarray:
    """uint8 in [0, 255] as float32 in [-1, 1]; floats stay as they are."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype("float32") / np.float32(127.5) - 1
    return images.astype("float32")


def to_uint8(images, argument="images") -> np.ndarray:
    """Images as bytes, as a file holds them.

    Args:
        images: uint8, which stay as they are, or floats; values outside [-1, 1] are clipped.
        argument: what errors call them.

    Returns:
        uint8 array of the same shape.

    >>> to_uint8(np.float32([-1.0, 0.0, 1.0, 3.0]))
    array([  0, 128, 255, 255], dtype=uint8)
    """
    images = to_array(argument, images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"{argument} has dtype {images.dtype}; give uint8, or float in [-1, 1].")
    if not np.isfinite(images).all():
        raise ValueError(f"{argument} holds NaN or infinite values.")
    return np.round((np.clip(images.astype("float32"), -1, 1) + 1) * 127.5).astype("uint8")
