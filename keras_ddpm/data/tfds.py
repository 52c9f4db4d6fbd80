"""Images from TensorFlow Datasets, as NumPy arrays."""

from __future__ import annotations

import os
import re
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_ddpm.data.images import ImageSet, check_request, fit_image, to_8_bits
from keras_ddpm.types import ImageSize, PathLike
from keras_ddpm.validation import check_path, did_you_mean

ALTERNATIVES = (
    'Or give the path of a folder of images (load_images("path/to/folder")), or use the embedded '
    'set (load_images("drawn_flowers")): neither needs TensorFlow nor a network.'
)


def load_tfds(
    name: PathLike,
    split: str = "train",
    image_size: ImageSize = 64,
    channels: int = 3,
    data_dir: PathLike | None = None,
    num_images: int | None = None,
) -> ImageSet:
    """Loads an image data set of TensorFlow Datasets (TFDS), and downloads it if necessary.

    Any data set with an "image" feature will do; a "label" feature of classes gives the labels.

    Args:
        name: a name that TFDS knows, e.g. `"oxford_flowers102"` or `"huggingface:owner/name"`; the
            name of a data set prepared below `data_dir`; or the path of a prepared data set.
        split: in TFDS's syntax: `"train"`, `"train+validation[:50%]"`.
        image_size, channels, num_images: as for `load_images`.
        data_dir: where TFDS keeps its data sets; None is its own choice (~/tensorflow_datasets).

    Returns an `ImageSet` in the fixed order of the prepared data set. Raises an ImportError without
    a package that it needs, and a RuntimeError if it could not be downloaded.
    """
    check_path("name", name)
    size = check_request(image_size, channels, num_images)
    tf, tfds = _import_tensorflow(name)
    builder = _prepare(tfds, os.fspath(name), data_dir)
    label = _feature(builder, "label")
    has_labels = isinstance(label, tfds.features.ClassLabel)
    wanted = {"image": True, "label": True} if has_labels else {"image": True}
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    images, labels = [], []
    for example in examples.take(num_images or -1).as_numpy_iterator():
        images.append(fit_image(_to_pillow(example["image"]), size, channels))
        labels.append(example["label"] if has_labels else 0)
    if not images:
        raise ValueError(f"split={split!r} of {name} has no images.")
    if not has_labels:
        return ImageSet(np.stack(images))
    return ImageSet(np.stack(images), np.array(labels, np.int32), label.names)


def is_prepared(folder):
    """Whether TFDS prepared this folder: a data set, one of its configurations or versions."""
    levels = ("", "*/", "*/*/")
    return any(any(Path(folder).glob(f"{level}dataset_info.json")) for level in levels)


def _import_tensorflow(name):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{str(name)!r} is no folder of images, and to look it up in TensorFlow Datasets run: "
            f"pip install tensorflow tensorflow-datasets. {ALTERNATIVES}"
        ) from error
    if keras.backend.backend() != "tensorflow":
        try:  # TensorFlow only decodes here: the GPU's memory belongs to the other backend
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:  # it is in use already, and keeps what it has
            pass
    return tf, tfds


def _prepare(tfds, name, data_dir):
    """The builder of a data set that is on disk and has images."""
    try:
        builder = _open(tfds, name, data_dir)
        if not isinstance(_feature(builder, "image"), tfds.features.Image):
            raise ValueError(f'{name} has no "image" feature of images: {builder.info.features}')
        builder.download_and_prepare()
    except ImportError as error:
        raise ImportError(f"{name!r} needs one more package: {error}. {ALTERNATIVES}") from error
    except (OSError, tfds.download.DownloadError) as error:
        raise RuntimeError(
            f"{name!r} is not prepared in {data_dir or 'the data folder of TFDS'} and could not "
            f"be downloaded (no network?): {error}. {ALTERNATIVES}"
        ) from error
    return builder


def _open(tfds, name, data_dir):
    folder = Path(name).expanduser()
    if (folder / "dataset_info.json").is_file():
        return tfds.builder_from_directory(folder)
    if is_prepared(folder):
        name, data_dir = folder.name, folder.parent
    try:
        return tfds.builder(name, data_dir=data_dir)
    except ValueError:
        known = [*tfds.list_builders(with_community_datasets=False), "drawn_flowers"]
        if re.split("[/:]", name)[0] in (*known, "huggingface"):  # the version or the like is wrong
            raise
    raise ValueError(
        f"name={name!r} is neither a folder (here, in data_dir={data_dir} or in "
        f"KERAS_DDPM_DATA={os.environ.get('KERAS_DDPM_DATA')}) nor a data set of TensorFlow "
        f"Datasets{did_you_mean(name, known)} {ALTERNATIVES}"
    )


def _feature(builder, name):
    features = builder.info.features  # nearly always a FeaturesDict, which has no method `get`
    return features[name] if hasattr(features, "keys") and name in features else None


def _to_pillow(image):
    """An array `(height, width, 1 to 4)` as a Pillow image of 8 bits."""
    if image.dtype.kind in "iu" and image.dtype != np.uint8:
        image = to_8_bits(image)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
