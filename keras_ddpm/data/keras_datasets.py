"""MNIST, Fashion-MNIST and CIFAR-10: from a file, or downloaded by Keras."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_ddpm.data.images import ImageSet, check_request, fit_image
from keras_ddpm.types import ImageSize, PathLike
from keras_ddpm.validation import check_choice, check_labels, check_path

SPLITS = ("train", "test")
CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
# The shape of an image, and the names of the classes.
KERAS_DATASETS = {
    "mnist": ((28, 28), tuple("0123456789")),
    "fashion_mnist": ((28, 28), tuple(CLOTHES.split(","))),
    "cifar10": ((32, 32, 3), tuple(THINGS.split(","))),
}


def load_keras_dataset(
    name: PathLike,
    split: str = "train",
    image_size: ImageSize = 64,
    channels: int = 3,
    num_images: int | None = None,
    roots: Iterable[PathLike] = (),
) -> ImageSet:
    """Loads MNIST, Fashion-MNIST or CIFAR-10, from a file if there is one.

    The file is called mnist.npz, fashion_mnist.npz or cifar10.npz, and holds the arrays x_train,
    y_train, x_test and y_test as `keras.datasets` returns them, uint8. Train on digits with
    `flip=False`.

    Args:
        name: `"mnist"`, `"fashion_mnist"` or `"cifar10"`, or the path of the file.
        split: `"train"` or `"test"`.
        image_size, channels, num_images: as for `load_images`. To 32 x 32, MNIST and Fashion-MNIST
            are padded with two black pixels on every side, as is the custom.
        roots: folders in which to look for the file.

    Returns an `ImageSet` in the published order; a RuntimeError if the download failed.
    """
    size = check_request(image_size, channels, num_images)
    check_choice("split", split, SPLITS)
    name = os.fspath(check_path("name", name))
    is_path = name.endswith(".npz")
    key = check_choice("name", Path(name).stem if is_path else name, KERAS_DATASETS)
    places = [Path(root, name if is_path else f"{name}.npz").expanduser() for root in roots]
    if is_path:
        places.insert(0, Path(name).expanduser())
    found = next((place for place in places if place.is_file()), None)
    if is_path and not found:
        raise ValueError(f"there is no file {' nor '.join(map(str, places))}.")
    images, labels = _read(found, split) if found else _download(name, split)

    shape, class_names = KERAS_DATASETS[key]
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(
            f"{found or name}: images of shape {images.shape} and dtype {images.dtype} must be "
            f"uint8 (n, {', '.join(map(str, shape))})."
        )
    labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
    labels = check_labels(f"labels of {found or name}", labels, len(images), len(class_names))
    images, labels = images[:num_images], labels[:num_images]
    if shape == (28, 28) and size == (32, 32):
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    images = np.stack([fit_image(Image.fromarray(image), size, channels) for image in images])
    return ImageSet(images, labels, class_names)


def is_keras_dataset(name):
    """Whether `load_keras_dataset` loads this name: that of a set, or of a .npz file."""
    return name in KERAS_DATASETS or name.endswith(".npz")


def _read(path, split):
    names = f"x_{split}", f"y_{split}"
    try:
        with np.load(path, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    except Exception as error:  # damage can make NumPy and zipfile raise nearly anything
        raise ValueError(f"{path} is damaged, or without the arrays {names}: {error}") from error


def _download(name, split):
    try:
        parts = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when there is no network
        raise RuntimeError(
            f"{name!r} could not be downloaded (no network?): {error}. Put {name}.npz, with the "
            "arrays x_train, y_train, x_test and y_test, into a folder and name that folder in "
            "data_dir or in the environment variable KERAS_DDPM_DATA; or use the embedded set, "
            'load_images("drawn_flowers").'
        ) from error
    return parts[SPLITS.index(split)]
