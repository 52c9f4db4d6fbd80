"""Features of images, batch by batch. An extractor is any function from images to features."""

from contextlib import contextmanager

import keras
import numpy as np

from keras_ddpm.metrics.statistics import FeatureStatistics, check_features
from keras_ddpm.plotting import to_uint8
from keras_ddpm.validation import check_positive_int


def extract(extractor, images, batch_size=1024):
    """The features of many images.

    Args:
        extractor: a function from images `(n, height, width, channels)` to features `(n, d)`,
            such as `InceptionFeatures()` or `LeNetFeatures(...)`.
        images: array `(n, height, width, channels)`, uint8 or float in [-1, 1], or an iterable of
            such arrays, which may have different lengths.
        batch_size: int, how many images of an array the extractor is given at once.

    Returns:
        Floats `(n, d)`, of the extractor's dtype.

    Raises:
        TypeError: if images are neither uint8 nor float.
        ValueError: if images are no images or there are none, or if the extractor does not return
            one row of finite numbers for each.

    Example:

    >>> extract(lambda images: images.mean((1, 2)), np.zeros((10, 8, 8, 3), "uint8")).shape
    (10, 3)
    """
    features = list(_in_batches(extractor, images, batch_size))
    if not features:
        raise ValueError("images must be at least one batch, got none.")
    return np.concatenate(features)


def statistics_of(extractor, images, batch_size=1024):
    """Count, mean and covariance of the features of many images, of which none are kept.

    Args:
        extractor, images, batch_size: as for `extract`. An iterable need not fit in memory.

    Returns:
        A `FeatureStatistics`.

    Raises:
        TypeError, ValueError: as `extract` does.

    Example:

    >>> reference = statistics_of(extractor, (images for images, labels in dataset))
    >>> frechet_distance(statistics_of(extractor, samples), reference)
    """
    statistics = FeatureStatistics()
    for features in _in_batches(extractor, images, batch_size):
        statistics.update(features)
    if not statistics.count:
        raise ValueError("images must be at least one batch, got none.")
    return statistics


def check_images(name, images):
    """Returns images as uint8 `(n, height, width, 1 or 3)`, as a file would hold them.

    Floats are rounded to the 256 levels, so that samples and data are treated alike.

    Raises:
        TypeError: if they are neither uint8 nor float.
        ValueError: if they have another shape, are none at all, or hold NaN.
    """
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} must be (n, height, width, 1 or 3) with n > 0, got shape {images.shape}."
        )
    return to_uint8(images)


@contextmanager
def in_float32():
    """Layers made here compute in float32: features must not depend on how a model is trained."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _in_batches(extractor, images, batch_size):
    check_positive_int("batch_size", batch_size)
    if hasattr(images, "shape"):  # one array, not a sequence of them
        array = check_images("images", images)
        images = (array[i : i + batch_size] for i in range(0, len(array), batch_size))
    first_row = 0
    for batch in images:
        batch = check_images("images", batch)
        features = np.asarray(extractor(batch))
        check_features("the extractor's output", features, first_row=first_row)
        if len(features) != len(batch):
            raise ValueError(f"the extractor gave {len(features)} rows for {len(batch)} images.")
        first_row += len(batch)
        yield features
