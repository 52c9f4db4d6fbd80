"""A set of images in memory, and the one way to load it from any source by name."""

import operator
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_ddpm.validation import check_choice, check_positive_int

DATA_ENVIRONMENT_VARIABLE = "KERAS_DDPM_DATA"
DRAWN_SPLITS = ("train", "validation", "test")
_FOLDER_SPLITS = {"train", "valid", "validation", "val", "dev", "test"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images decoded and resized once, with their labels if they have any.

    Args:
        images: uint8 array of shape (n, height, width, channels), values 0 to 255.
        labels: Integer array of shape (n,), counting from 0 and kept as int32, or None.
        label_names: What each label number stands for, or None.

    Raises:
        ValueError: The shapes, dtypes or numbers of labels do not fit together.

    Example:
        >>> flowers = ImageSet(np.zeros((10, 8, 8, 3), "uint8"), labels=None, label_names=None)
        >>> rest, held_out = flowers.split(0.2)
        >>> len(rest), len(held_out)
        (8, 2)
    """

    images: np.ndarray
    labels: np.ndarray | None
    label_names: tuple[str, ...] | None

    def __post_init__(self):
        images = np.asarray(self.images)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                "images must be a uint8 array of shape (n, height, width, channels), got "
                f"{images.dtype} of shape {images.shape}"
            )
        object.__setattr__(self, "images", images)
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"labels must be {len(images)} integers, one for each image, got "
                    f"{labels.dtype} of shape {labels.shape}"
                )
            object.__setattr__(self, "labels", labels.astype(np.int32))
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(self.label_names))

    def __len__(self):
        return len(self.images)

    def split(self, fraction, seed=0):
        """Holds out a random part: the same part for the same length, fraction and seed.

        Args:
            fraction: The share to hold out, more than 0 and less than 1.
            seed: A non-negative int.

        Returns:
            Two ImageSets, `(rest, held_out)`, each with at least one image, in their old order.

        Raises:
            ValueError: `fraction` is out of range, or there are fewer than two images.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be more than 0 and less than 1, got {fraction!r}")
        if len(self) < 2:
            raise ValueError(f"only a set of two or more images can be split, this has {len(self)}")
        number_held_out = min(max(round(fraction * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(seed).permutation(len(self))
        held_out, rest = np.sort(order[:number_held_out]), np.sort(order[number_held_out:])
        return self._take(rest), self._take(held_out)

    def first(self, count):
        """The first `count` images."""
        return self._take(np.arange(count))

    def _take(self, indices):
        labels = None if self.labels is None else self.labels[indices]
        return ImageSet(self.images[indices], labels, self.label_names)


def load_images(
    name,
    split=None,
    image_size=64,
    channels=3,
    data_dir=None,
    background="white",
    num_images=None,
    seed=0,
):
    """Loads a set of images by name: the embedded set, a published one, or a folder.

    Args:
        name: "drawn_flowers" for the embedded set; "mnist", "fashion_mnist" or "cifar10", or the
            path of a file such as mnist.npz, see `load_keras_dataset`; a folder, given as a path
            that exists, or relative to `data_dir` or to the environment variable KERAS_DDPM_DATA;
            or any image data set TensorFlow Datasets (TFDS) knows, such as "oxford_flowers102" or
            "huggingface:owner/name", or one it has prepared on disk. A folder that is called like
            one of the sets named here is given as "./mnist".
        split: For the embedded set "train" (None is the same), "validation" or "test"; for MNIST,
            Fashion-MNIST and CIFAR-10 "train" (None is the same) or "test". For a folder the name
            of one of its sub-folders; None takes the whole folder, or its "train" when all its
            sub-folders are named like splits (train, validation, test...). For TFDS its syntax,
            e.g. "train+validation[:50%]"; None is "train".
        image_size: Side in pixels, or (height, width). Images are cropped centrally to this
            shape and resized to it with antialiasing; only at 32 x 32, MNIST and Fashion-MNIST
            are padded with black instead.
        channels: 3 for colour or 1 for grey.
        data_dir: Where to look for folders and .npz files, and where TFDS keeps its data sets.
        background: What shows through transparent images of a folder: a colour name or "#rrggbb".
        num_images: Load only the first so many; None is all (4096 for the embedded set).
        seed: Which drawings the embedded set makes; its splits never share any.

    Returns:
        An ImageSet: images uint8 of shape (n, height, width, channels), labels int32 or None.

    Raises:
        ValueError: An argument makes no sense, or the name is unknown; the message names the
            nearest known names. An argument of a wrong type may be a TypeError.
        ImportError: The name asks for TFDS, which is not installed.
        RuntimeError: The data set could not be downloaded.

    Example:
        >>> load_images("drawn_flowers", image_size=32, num_images=8).images.shape
        (8, 32, 32, 3)
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise TypeError(f"name must be the name of a data set or a folder, got {name!r}")
    if split is not None and not isinstance(split, str):
        raise TypeError(f"split must be a string or None, got {split!r}")
    check_request(image_size, channels, num_images)
    name = os.fspath(name)
    if name == "drawn_flowers":
        return _draw(split or "train", image_size, channels, num_images, seed)

    from keras_ddpm.data.folder import load_folder
    from keras_ddpm.data.keras_datasets import is_keras_dataset, load_keras_dataset
    from keras_ddpm.data.tfds import is_prepared, load_tfds

    if is_keras_dataset(name):
        return load_keras_dataset(
            name, split or "train", image_size, channels, data_dir, num_images
        )
    folder = _find_folder(name, data_dir)
    if folder is None or is_prepared(folder):
        name = name if folder is None else folder
        return load_tfds(name, split or "train", image_size, channels, data_dir, num_images)
    return load_folder(_split_folder(folder, split), image_size, channels, background, num_images)


def check_request(image_size, channels, num_images):
    """Checks what every loader is asked for. Returns (height, width)."""
    try:
        height, width = (operator.index(n) for n in np.broadcast_to(image_size, (2,)))
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(
            f"image_size must be a positive int or (height, width), got {image_size!r}"
        )
    if not isinstance(channels, int) or channels not in (1, 3):
        raise ValueError(f"channels must be 3 for colour or 1 for grey, got {channels!r}")
    if num_images is not None:
        check_positive_int("num_images", num_images)
    return height, width


def _draw(split, image_size, channels, num_images, seed):
    from keras_ddpm.data.drawn_flowers import LABEL_NAMES, draw_flowers

    check_choice("split", split, DRAWN_SPLITS)
    check_positive_int("seed", seed, minimum=0)
    # No two pairs of split and seed meet in the same number.
    seed = len(DRAWN_SPLITS) * seed + DRAWN_SPLITS.index(split)
    images, labels = draw_flowers(num_images or 4096, image_size=image_size, seed=seed)
    if channels == 1:
        brightness = images @ np.float32([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow does
        images = np.round(brightness[..., None]).astype(np.uint8)
    return ImageSet(images, labels, LABEL_NAMES)


def _find_folder(name, data_dir):
    from keras_ddpm.data.folder import walk_images
    from keras_ddpm.data.tfds import is_prepared

    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    for root in (data_dir, os.environ.get(DATA_ENVIRONMENT_VARIABLE)):
        folder = Path(root, name).expanduser() if root else None
        # An interrupted download leaves an empty folder of this name: that is not what is meant.
        if folder and folder.is_dir() and (is_prepared(folder) or any(walk_images(folder))):
            return folder
    return None


def _split_folder(folder, split):
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != ".")
    if split is None:
        return folder / "train" if "train" in names and set(names) <= _FOLDER_SPLITS else folder
    if split not in names:
        raise ValueError(f"split={split!r} is no sub-folder of {folder}, which has {names}")
    return folder / split
