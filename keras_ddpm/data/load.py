"""`load_images`: a set of images by name, from any source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_ddpm.data.drawn_flowers import CLASS_NAMES, draw_flowers
from keras_ddpm.data.folder import class_folders, is_image, is_visible, load_folder, walk
from keras_ddpm.data.hub import load_hub
from keras_ddpm.data.images import ImageSet, check_request
from keras_ddpm.data.keras_datasets import is_keras_dataset, load_keras_dataset
from keras_ddpm.data.tfds import is_prepared, load_tfds
from keras_ddpm.hub import is_on_hub
from keras_ddpm.types import ImageSize, PathLike
from keras_ddpm.validation import check_choice, check_int, check_path

DATA_ENVIRONMENT_VARIABLE = "KERAS_DDPM_DATA"
DRAWN_SPLITS = ("train", "validation", "test")
# What the sub-folders of a folder are called, in any case.
FOLDER_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def load_images(
    name: PathLike,
    split: str | None = None,
    image_size: ImageSize = 64,
    channels: int = 3,
    data_dir: PathLike | None = None,
    background: str = "white",
    num_images: int | None = None,
    seed: int = 0,
    store: PathLike | None = None,
    damaged: Literal["skip", "raise"] = "skip",
) -> ImageSet:
    """Loads a set of images by name: the embedded set, a published one, or a folder.

    Args:
        name: `"drawn_flowers"` for the embedded set; `"mnist"`, `"fashion_mnist"` or `"cifar10"`,
            or the path of a file such as mnist.npz, see `load_keras_dataset`; a folder, given as a
            path, or relative to `data_dir` or to the environment variable KERAS_DDPM_DATA; an image
            data set of TensorFlow Datasets (TFDS), such as `"oxford_flowers102"`; or one of the
            Hugging Face Hub, `"hf://user/name"`, see `load_hub`. A folder with the name of a set is
            given as `"./mnist"`.
        split: `"train"` (the default), `"test"`, and for the embedded set `"validation"`; for TFDS
            and the hub their syntax. For a folder the name of a sub-folder, or another name for it:
            train or training, validation, valid, val or dev, test or testing, in any case. None is
            the whole folder, or its training images if all its sub-folders are called so. Classes
            have the numbers that they have in the training images beside them.
        image_size: int or (height, width). Images are cropped centrally to this shape and resized
            to it with antialiasing.
        channels: 3 for colour or 1 for grey.
        data_dir: where to look for folders and .npz files, and where TFDS keeps its data sets.
        background: what shows through transparent pixels of a folder's images: a colour name or
            `"#rrggbb"`.
        num_images: load only the first so many; None is all (4096 for the embedded set).
        seed: which drawings the embedded set makes; its splits never share any.
        store, damaged: for a folder, as in `load_folder`: where to keep images that are more than
            memory holds, and what to do about damaged files.

    Returns:
        An `ImageSet`: images uint8 `(n, height, width, channels)`, labels int32 or None.

    Raises an ImportError without TFDS or `datasets`, and a RuntimeError if a download failed.

    >>> load_images("drawn_flowers", image_size=32, num_images=8).images.shape
    (8, 32, 32, 3)
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise TypeError(f"name={name!r} must be the name of a data set or a folder.")
    if split is not None and not isinstance(split, str):
        raise TypeError(f"split={split!r} must be a string or None.")
    if data_dir is not None:
        check_path("data_dir", data_dir)
    check_int("seed", seed, minimum=0)
    check_request(image_size, channels, num_images)
    name = os.fspath(name)
    roots = [root for root in (data_dir, os.environ.get(DATA_ENVIRONMENT_VARIABLE)) if root]
    is_drawn, on_hub = name == "drawn_flowers", is_on_hub(name)
    is_published = is_keras_dataset(name) and not on_hub
    folder = None if is_drawn or is_published or on_hub else _find_folder(name, roots)
    if store is not None and (folder is None or is_prepared(folder)):
        raise ValueError(
            f"store={os.fspath(store)!r} needs a folder, and {name!r} is not a folder."
        )
    if is_drawn:
        return _draw(split or "train", image_size, channels, num_images, seed)
    options: dict[str, Any] = dict(image_size=image_size, channels=channels, num_images=num_images)
    if on_hub:
        return load_hub(name, split or "train", **options)
    if is_published:
        return load_keras_dataset(name, split or "train", roots=roots, **options)
    if folder is None or is_prepared(folder):
        return load_tfds(folder or name, split or "train", data_dir=data_dir, **options)
    folder, class_names = _split_folder(folder, split)
    options |= {"background": background, "store": store, "damaged": damaged}
    return load_folder(folder, class_names=class_names, **options)


def _draw(split, image_size, channels, num_images, seed):
    check_choice("split", split, DRAWN_SPLITS)
    # Different pairs of split and seed give different numbers.
    seed = len(DRAWN_SPLITS) * seed + DRAWN_SPLITS.index(split)
    images, labels = draw_flowers(num_images or 4096, image_size=image_size, seed=seed)
    if channels == 1:
        brightness = images @ np.float32([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow does
        images = np.round(brightness[..., None]).astype(np.uint8)
    return ImageSet(images, labels, CLASS_NAMES)


def _find_folder(name, roots):
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    for root in roots:
        folder = Path(root, name).expanduser()
        # An interrupted download leaves an empty folder of this name.
        if folder.is_dir() and (is_prepared(folder) or _has_images(folder)):
            return folder
    return None


def _has_images(folder):
    return any(is_image(path) for _, paths in walk(folder) for path in paths)


def _split_folder(folder, split):
    """The folder to read for a split, and the class names of the training images beside it."""
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and is_visible(f.name))
    if split is None and not (names and all(map(_meaning, names))):
        return folder, None
    chosen = _choose(folder, names, split)
    if chosen is None and split is None:
        raise ValueError(
            f"split=None: {folder} has no training images, only {names}; give one of these, or "
            "read all of them with `load_folder`."
        )
    if chosen is None:
        raise ValueError(f"split={split!r} is no sub-folder of {folder}, which has {names}.")
    train = _choose(folder, names, "train")
    return folder / chosen, None if train in (None, chosen) else class_folders(folder / train)


def _choose(folder, names, split):
    """The one of `names` that is the split, or else means the same; None if there is none."""
    if split in names:
        return split
    meaning = _meaning(split or "train")
    fitting = [name for name in names if meaning and _meaning(name) == meaning]
    if len(fitting) > 1:
        raise ValueError(f"split={split!r} of {folder} may be {' or '.join(fitting)}; give one.")
    return fitting[0] if fitting else None


def _meaning(name):
    """The key in `FOLDER_SPLITS` of a name; None if it is not that of a split."""
    return next((key for key, names in FOLDER_SPLITS.items() if name.lower() in names), None)
