"""Features of photographs, from the Inception network that Keras brings."""

import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_ddpm.metrics.extractors import check_images, in_float32

SIDE = 299  # pixels, of the images it was trained with
BATCH_SIZE = 32  # a batch takes about 1 GB
WEIGHTS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


class InceptionFeatures:
    """The 2048 pooled features of InceptionV3, trained on ImageNet (Szegedy et al. 2016).

    Images of any size become 299 x 299, bilinear with antialias; grey ones have three equal
    channels. Keras downloads the weights, 88 MB, at the first use.

    These are the weights of `keras.applications`. The published FID and KID figures come from
    others, those of TF-GAN and pytorch-fid (a port of Inception of 2015): distances measured with
    one and the other do not compare.

    Args:
        weights: `"imagenet"`; or the path of the weights file, if it was downloaded by hand;
            None is a random network.

    Raises:
        OSError: if the weights cannot be downloaded. The message says what to put where.
        ValueError: if the file does not hold these weights, or there is none.

    Example:

    ```python
    inception = InceptionFeatures()
    frechet_distance(statistics_of(inception, samples), statistics_of(inception, photographs))
    ```
    """

    def __init__(self, weights="imagenet"):
        with in_float32():
            inception = _load(weights)
            images = keras.Input((None, None, 3), dtype="uint8")
            resized = ops.image.resize(
                ops.cast(images, "float32"), (SIDE, SIDE), interpolation="bilinear", antialias=True
            )
            self._network = keras.Model(images, inception(resized / 127.5 - 1, training=False))
        # TensorFlow's XLA has no such resizing, torch compiles for minutes.
        self._network.jit_compile = keras.backend.backend() == "jax"

    def __call__(self, images):
        """Features of images.

        Args:
            images: `(n, height, width, 1 or 3)`, uint8 or float in [-1, 1].

        Returns:
            float32 `(n, 2048)`.

        Raises:
            TypeError, ValueError: if they are no such images.
        """
        images = check_images("images", images)
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        return self._network.predict(images, batch_size=BATCH_SIZE, verbose=0)


def _load(weights):
    try:
        return keras.applications.InceptionV3(include_top=False, weights=weights, pooling="avg")
    except Exception as error:  # Keras raises a bare Exception where a download fails
        is_download = "URL fetch failure" in str(error) or isinstance(error, OSError)
        if weights != "imagenet" or not is_download:
            raise
        home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        raise OSError(
            f"the weights of InceptionV3 could not be downloaded: {error}. Download {WEIGHTS_URL} "
            f"where there is a network, and put it into the folder {home / 'models'}, where Keras "
            "looks for it; or give its path: InceptionFeatures(weights=path)."
        ) from error
