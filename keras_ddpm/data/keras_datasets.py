"""MNIST, Fashion-MNIST and CIFAR-10: from a file, or downloaded by Keras."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from keras_ddpm.data.images import DATA_ENVIRONMENT_VARIABLE, ImageSet, check_request
from keras_ddpm.validation import check_choice

SPLITS = ("train", "test")
MNIST_SIZE, PADDED_SIZE = (28, 28), (32, 32)


class _Published(NamedTuple):
    """What one image of a published set is, and the names of its classes."""

    shape: tuple
    label_names: tuple


KERAS_DATASETS = {
    "mnist": _Published(MNIST_SIZE, tuple("0123456789")),
    "fashion_mnist": _Published(
        MNIST_SIZE,
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
        + ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": _Published(
        (32, 32, 3),
        ("airplane", "automobile", "bird", "cat", "deer")
        + ("dog", "frog", "horse", "ship", "truck"),
    ),
}


def load_keras_dataset(
    name, split="train", image_size=64, channels=3, data_dir=None, num_images=None
):
    """Loads MNIST, Fashion-MNIST or CIFAR-10, from a file if there is one.

    The file is called mnist.npz, fashion_mnist.npz or cifar10.npz, and holds the arrays x_train,
    y_train, x_test and y_test as `keras.datasets` returns them, uint8. Without one, Keras
    downloads the set and keeps it in ~/.keras/datasets. Digits mirrored are no digits: train on
    them with `flip=False`.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10", whose file is then looked for in `data_dir`
            and in the folder that the environment variable KERAS_DDPM_DATA names; or the path of
            the file, which is also looked for relative to those two.
        split: "train" or "test".
        image_size: Side in pixels, or (height, width). Images of this size stay as they are; the
            digits and clothes, 28 x 28, are padded to 32 x 32 with two rows and columns of black
            on every side, as is the custom. Otherwise images are cropped centrally to this shape
            and resized to it with antialiasing.
        channels: 3 for colour, which repeats the grey of MNIST and Fashion-MNIST three times; or
            1 for grey.
        data_dir: Where to look for the file.
        num_images: Load only the first so many; None is all.

    Returns:
        An ImageSet in the published order: images uint8 of shape (n, height, width, channels),
        labels int32 of shape (n,), and the ten published label names.

    Raises:
        ValueError: An argument makes no sense, or the file is damaged or of another layout.
        RuntimeError: There is no file, and the set could not be downloaded.

    Example:
        >>> digits = load_keras_dataset("mnist", "test", image_size=32, channels=1)
        >>> digits.images.shape
        (10000, 32, 32, 1)
    """
    height, width = check_request(image_size, channels, num_images)
    check_choice("split", split, SPLITS)
    name = os.fspath(name)
    is_path = name.endswith(".npz")
    key = check_choice("name", Path(name).stem if is_path else name, KERAS_DATASETS)
    roots = [root for root in (data_dir, os.environ.get(DATA_ENVIRONMENT_VARIABLE)) if root]
    places = [Path(root, name if is_path else f"{name}.npz").expanduser() for root in roots]
    if is_path:
        places.insert(0, Path(name).expanduser())
    found = next((place for place in places if place.is_file()), None)
    if found:
        images, labels = _read(found, split)
    elif is_path:
        raise ValueError(f"there is no file {' nor '.join(map(str, places))}")
    else:
        images, labels = _download(name, split)
    labels = _check(found or f"keras.datasets.{key}", KERAS_DATASETS[key], images, labels)
    images = _fit(images[:num_images], height, width, channels)
    return ImageSet(images, labels[:num_images], KERAS_DATASETS[key].label_names)


def is_keras_dataset(name):
    """Whether `load_keras_dataset` is what loads this name: a set's own, or a .npz file's."""
    return name in KERAS_DATASETS or name.endswith(".npz")


def _read(path, split):
    names = f"x_{split}", f"y_{split}"
    try:
        with np.load(path, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    except KeyError as error:
        raise ValueError(f"{path} must hold the arrays {names}: {error}") from error
    except Exception as error:  # damage can make NumPy and zipfile raise nearly anything
        raise ValueError(f"{path} is damaged, or no .npz file: {error}. Fetch it again.") from error


def _download(name, split):
    import keras

    try:
        parts = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when there is no network
        raise RuntimeError(
            f"{name!r} could not be downloaded (no network?): {error}. Put {name}.npz, with the "
            "arrays x_train, y_train, x_test and y_test, into a folder and name that folder in "
            f"data_dir or in the environment variable {DATA_ENVIRONMENT_VARIABLE}; or use the "
            'embedded set, load_images("drawn_flowers").'
        ) from error
    return parts[SPLITS.index(split)]


def _check(source, published, images, labels):
    """Returns the labels as int32 `(n,)`, if images and labels are those of this set."""
    shape, classes = published.shape, len(published.label_names)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(
            f"{source}: images must be uint8 of shape (n, {', '.join(map(str, shape))}), got "
            f"{images.dtype} of shape {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(
            f"{source}: labels must be {len(images)} ints, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{source}: labels must lie in [0, {classes - 1}], got {labels.min()} to {labels.max()}"
        )
    return labels.reshape(-1).astype(np.int32)


def _fit(images, height, width, channels):
    """Pads or resizes to the size asked for, and makes images grey or coloured."""
    if images.shape[1:] == MNIST_SIZE and (height, width) == PADDED_SIZE:
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    if images.ndim == 4 and channels == 1:
        images = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    if images.shape[1:3] != (height, width):
        images = np.stack([_resize(image, height, width) for image in images])
    if images.ndim == 3:
        images = np.repeat(images[..., None], channels, axis=-1)
    return images


def _resize(image, height, width):
    method = Image.Resampling.LANCZOS
    return np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), method=method))
