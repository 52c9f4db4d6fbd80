"""Features from a small classifier that is trained on the spot."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
from keras import layers
from numpy.typing import ArrayLike

from keras_ddpm.data.dataset import ImageDataset
from keras_ddpm.files import atomic_write, is_damaged, make_writable
from keras_ddpm.pixels import to_uint8
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_images, check_int, check_labels, check_path

EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 64, 2e-3
MIN_SIDE = 16  # pixels, of which two convolutions and two poolings leave something


class LeNetFeatures:
    """The 84 penultimate features of LeNet-5 (LeCun et al. 1998), trained on labelled images.

    The training takes about a minute: 8 epochs of Adam, batch 64, learning rate 2e-3 falling to 0
    along a cosine, no flips, and swish activations so that no feature is constant. Only distances
    of one recipe compare. Weights and the order of the images follow from the seed; backends round
    differently, so share a cache to compare them.

    Args:
        images: `(n, height, width, channels)` of at least 16 x 16, uint8 or float in [-1, 1].
        labels: ints `(n,)`, counting from 0, of at least two classes.
        seed: int >= 0.
        cache: optional folder, where the trained network is kept, and read by the next call with
            the same images, labels and seed.

    ```python
    images, labels = draw_flowers(500, image_size=16)
    lenet = LeNetFeatures(images, labels)
    lenet.accuracy(images, labels)  # of its `classifier`, a keras.Model
    features = extract(lenet, images)  # (500, 84)
    ```
    """

    def __init__(
        self,
        images: ArrayLike,
        labels: ArrayLike,
        seed: int = 0,
        cache: PathLike | None = None,
    ):
        images = to_uint8(check_images("images", images))
        labels = check_labels("labels", labels, len(images))
        if min(images.shape[1:3]) < MIN_SIDE:
            raise ValueError(
                f"images of shape {images.shape} must be at least {MIN_SIDE} x {MIN_SIDE}."
            )
        if len(np.unique(labels)) < 2:
            raise ValueError(f"labels are all {labels[0]}, but must be of at least two classes.")
        seed = check_int("seed", seed, minimum=0)
        if cache is None:
            self.classifier = _train(images, labels, seed)
        else:
            recipe = f"{images.shape} {seed} {EPOCHS} {BATCH_SIZE} {LEARNING_RATE}".encode()
            digest = hashlib.sha256(recipe + images.tobytes() + labels.tobytes()).hexdigest()[:12]
            path = make_writable(check_path("cache", cache)) / f"lenet_{digest}.keras"
            if not path.exists():
                with atomic_write(path) as partial:
                    _train(images, labels, seed).save(partial)
            self.classifier = _load(path)
        features = self.classifier.get_layer("features").output
        self.network = keras.Model(self.classifier.inputs, features)

    def __call__(self, images: ArrayLike) -> np.ndarray:
        """Features float32 `(n, 84)` of images as in training."""
        return self.network.predict(self._check(images), batch_size=256, verbose=0)

    def accuracy(self, images: ArrayLike, labels: ArrayLike) -> float:
        """The share of images that are classified as labelled, a float in [0, 1]."""
        scores = self.classifier.predict(self._check(images), batch_size=256, verbose=0)
        labels = check_labels("labels", labels, *scores.shape)
        return float((scores.argmax(axis=1) == labels).mean())

    def _check(self, images):
        return to_uint8(check_images("images", images, self.classifier.input_shape[1:]))


def _load(path):
    try:
        if is_damaged(path):
            raise ValueError("its parts do not match their checksums")
        classifier = keras.saving.load_model(path, compile=False)
        classifier.get_layer("features")
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it.") from error
    return classifier


def _train(images, labels, seed):
    batch_size = min(BATCH_SIZE, len(images))
    dataset = ImageDataset(images, labels, batch_size=batch_size, flip=False, seed=seed)
    classifier = _build(images.shape[1:], int(labels.max()) + 1, seed)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * len(dataset))
    classifier.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    classifier.fit(dataset, epochs=EPOCHS, shuffle=False, verbose=0)
    return classifier


def _build(image_shape, num_classes, seed):
    """LeNet-5 in float32, with seeds that leave the global random state of Keras alone."""
    plain = {"dtype": "float32"}
    images = {"data_format": "channels_last", **plain}  # whatever Keras' global setting is

    def seeded(layer):
        seeds = np.random.SeedSequence((seed, layer)).generate_state(1)
        return {**plain, "kernel_initializer": keras.initializers.GlorotUniform(int(seeds[0] >> 1))}

    return keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8"),
            layers.Rescaling(1 / 127.5, offset=-1, **plain),
            layers.Conv2D(6, 5, activation="swish", **images | seeded(0)),
            layers.MaxPooling2D(**images),
            layers.Conv2D(16, 5, activation="swish", **images | seeded(1)),
            layers.MaxPooling2D(**images),
            layers.Flatten(**images),
            layers.Dense(120, activation="swish", **seeded(2)),
            layers.Dense(84, activation="swish", name="features", **seeded(3)),
            layers.Dense(num_classes, activation="softmax", **seeded(4)),
        ]
    )
