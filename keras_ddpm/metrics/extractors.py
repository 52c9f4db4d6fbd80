"""Features of images, batch by batch. An extractor is any function from images to features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from keras_ddpm.pixels import to_uint8
from keras_ddpm.types import Extractor
from keras_ddpm.validation import check_function, check_images, check_int, to_array


def extract(extractor: Extractor, images: ArrayLike, batch_size: int = 1024) -> np.ndarray:
    """The features of many images.

    Args:
        extractor: a function from uint8 images `(n, height, width, channels)` to features
            `(n, d)`, such as `LeNetFeatures(...)`.
        images: array `(n, height, width, channels)`, uint8 or float in [-1, 1]. Floats are rounded
            to the 256 values of a byte, so that samples and data are treated alike.
        batch_size: int, how many images the extractor gets at once.

    Returns:
        float64 array `(n, d)`.

    >>> extract(lambda images: images.mean((1, 2)), np.zeros((10, 8, 8, 3), "uint8")).shape
    (10, 3)
    """
    check_function("extractor", extractor, "a function of images")
    images = check_images("images", images)
    starts = range(0, len(images), check_int("batch_size", batch_size))
    name = "the extractor's output"
    batches = [to_array(name, extractor(to_uint8(images[i : i + batch_size]))) for i in starts]
    features = check_features(name, np.concatenate([np.atleast_1d(batch) for batch in batches]))
    if len(features) != len(images):
        raise ValueError(f"the extractor gave {len(features)} rows for {len(images)} images.")
    return features


def check_features(name, features, minimum=1) -> np.ndarray:
    """Returns features `(n, d)` as float64 if there are `minimum` rows of finite numbers."""
    features = to_array(name, features)
    if features.ndim != 2 or features.shape[1] == 0 or len(features) < minimum:
        raise ValueError(
            f"{name} has shape {features.shape}, but must be (n, d) with n >= {minimum}."
        )
    if features.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {features.dtype}, but must hold numbers.")
    features = features.astype("float64")
    is_bad = ~np.isfinite(features).all(axis=1)
    if is_bad.any():
        raise ValueError(
            f"{name} holds NaN or infinite values in {is_bad.sum()} of {len(features)} rows, "
            f"first in row {is_bad.argmax()}."
        )
    return features


def check_features_pair(features_a, features_b, minimum) -> tuple[np.ndarray, np.ndarray]:
    """Both of two sets of features, if they have the same columns."""
    a = check_features("features_a", features_a, minimum)
    b = check_features("features_b", features_b, minimum)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a has {a.shape[1]} columns and features_b {b.shape[1]}.")
    return a, b
