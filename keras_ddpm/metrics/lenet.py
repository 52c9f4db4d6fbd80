"""Features of digits, from a small classifier that is trained on the spot."""

import hashlib

import keras
import numpy as np
from keras import layers

from keras_ddpm.data.dataset import ImageDataset
from keras_ddpm.files import make_writable, written_aside
from keras_ddpm.metrics.extractors import check_images, in_float32
from keras_ddpm.validation import check_positive_int

NUM_FEATURES = 84
EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 64, 2e-3
SMALLEST_SIDE = 16  # pixels that two convolutions and two poolings leave something of


class LeNetFeatures:
    """The 84 penultimate features of LeNet-5 (LeCun et al. 1998), trained on labelled images.

    For 28 x 28 grey digits it has 44 426 parameters. Other sizes from 16 x 16 on, and colour, go
    the same way with more. It is trained in a minute or so, and knows what matters in digits,
    which a network for photographs need not.

    The recipe, outside of which no two distances compare: 5 x 5 convolutions to 6 and 16
    channels, each with a 2 x 2 maximum, dense layers of 120, 84 and the classes, swish between
    them so that no feature is ever constant; 8 epochs of Adam, batch 64, learning rate 2e-3
    falling to 0 along a cosine, no flips. Weights and the order of the images follow from the
    seed, not from Keras' global one. Backends differ in the last digits, and after training in
    more: to compare them, share a cache.

    Args:
        images: `(n, height, width, 1 or 3)`, uint8 or float in [-1, 1].
        labels: ints `(n,)`, counting from 0, of at least two classes.
        seed: int >= 0.
        cache: optional folder, where the network is kept as a `.keras` file named after a digest
            of images, labels and seed. What is found there is read and not trained again.

    Raises:
        TypeError: if images are neither uint8 nor float.
        ValueError: if images are too small, or labels do not fit.
        OSError: if the cache cannot be written to.

    Attributes:
        classifier: the trained `keras.Model`, from uint8 images to class probabilities.

    Example:

    ```python
    (images, labels), (test_images, test_labels) = keras.datasets.mnist.load_data()
    lenet = LeNetFeatures(images[..., None], labels, cache="runs/features")
    lenet.accuracy(test_images[..., None], test_labels)  # about 0.99
    reference = statistics_of(lenet, images[..., None])
    ```
    """

    def __init__(self, images, labels, seed=0, cache=None):
        images, labels = _check(images, labels)
        check_positive_int("seed", seed, minimum=0)
        if cache is None:
            self.classifier = _train(images, labels, seed)
        else:
            path = make_writable(cache) / f"lenet_{_digest(images, labels, seed)}.keras"
            if not path.exists():
                classifier = _train(images, labels, seed)
                with written_aside(path) as partial:
                    classifier.save(partial)
            self.classifier = keras.saving.load_model(path, compile=False)
        features = self.classifier.get_layer("features").output
        self._features = keras.Model(self.classifier.inputs, features)

    def __call__(self, images):
        """Features of images.

        Args:
            images: `(n, height, width, channels)` as in training, uint8 or float in [-1, 1].

        Returns:
            float32 `(n, 84)`.

        Raises:
            TypeError, ValueError: if they are no such images.
        """
        return self._features.predict(self._check_shape(images), batch_size=256, verbose=0)

    def accuracy(self, images, labels):
        """Share of images that are classified as labelled.

        Args:
            images: as for a call.
            labels: ints `(n,)`.

        Returns:
            A float in [0, 1].

        Raises:
            TypeError, ValueError: if they are no such images, or not as many labels.
        """
        images = self._check_shape(images)
        labels = _check_labels(labels, len(images))
        scores = self.classifier.predict(images, batch_size=256, verbose=0)
        return float((scores.argmax(axis=1) == labels).mean())

    def _check_shape(self, images):
        images = check_images("images", images)
        expected = self.classifier.input_shape[1:]
        if images.shape[1:] != expected:
            raise ValueError(
                f"images must be (n, {', '.join(map(str, expected))}) like those that the "
                f"features were trained with, got shape {images.shape}."
            )
        return images


def _check(images, labels):
    images = check_images("images", images)
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        raise ValueError(
            f"images must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE}, got shape {images.shape}."
        )
    labels = _check_labels(labels, len(images))
    if labels.min() < 0 or labels.max() < 1:
        raise ValueError("labels must count from 0, and be of at least two classes.")
    return images, labels


def _check_labels(labels, count):
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {count} ints, one an image, got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return labels.astype("int32")


def _digest(images, labels, seed):
    """Twelve letters that change whenever anything that shapes the network does."""
    digest = hashlib.sha256(f"{images.shape} {seed} {EPOCHS} {BATCH_SIZE} {LEARNING_RATE}".encode())
    for array in (images, labels):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:12]


def _train(images, labels, seed):
    batch_size = min(BATCH_SIZE, len(images))
    dataset = ImageDataset(images, labels, batch_size=batch_size, flip=False, seed=seed)
    with in_float32():
        classifier = _build(images.shape[1:], int(labels.max()) + 1, seed)
        rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * len(dataset))
        classifier.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        classifier.fit(dataset, epochs=EPOCHS, shuffle=False, verbose=0)
    return classifier


def _build(image_shape, num_classes, seed):
    """LeNet-5 with one seed a layer, so that Keras' global random state is left alone."""

    def options(layer):
        seeds = np.random.SeedSequence((seed, layer)).generate_state(1)
        return {"kernel_initializer": keras.initializers.GlorotUniform(int(seeds[0] >> 1))}

    return keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8"),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(6, 5, activation="swish", **options(0)),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="swish", **options(1)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="swish", **options(2)),
            layers.Dense(NUM_FEATURES, activation="swish", name="features", **options(3)),
            layers.Dense(num_classes, activation="softmax", **options(4)),
        ]
    )
