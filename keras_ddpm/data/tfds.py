"""Images from TensorFlow Datasets, resized once by TensorFlow and handed on as numpy arrays."""

import difflib
import os
import re
from pathlib import Path

import keras
import numpy as np

from keras_ddpm.data.images import ImageSet, check_request

_ALTERNATIVES = (
    'Or give the path of a folder of images (load_images("path/to/folder")), or use the embedded '
    'set (load_images("drawn_flowers")): neither needs TensorFlow nor a network.'
)


def load_tfds(name, split="train", image_size=64, channels=3, data_dir=None, num_images=None):
    """Loads an image data set of TensorFlow Datasets (TFDS), downloading it if necessary.

    Any data set with an "image" feature will do; a "label" feature of classes gives the labels.

    Args:
        name: A name TFDS knows, e.g. "oxford_flowers102" or "huggingface:owner/name"; the name
            of a data set prepared below `data_dir`; or the path of a prepared data set.
        split: In TFDS's syntax: "train", "train+validation[:50%]".
        image_size: Side in pixels, or (height, width). Images are cropped centrally to this
            shape and resized to it with antialiasing.
        channels: 3 for colour or 1 for grey.
        data_dir: Where TFDS keeps its data sets; None is its own choice (~/tensorflow_datasets).
        num_images: Load only the first so many; None is all.

    Returns:
        An ImageSet in the fixed order of the prepared data set: images uint8 of shape
        (n, height, width, channels), labels int32 of shape (n,) or None.

    Raises:
        ValueError: An argument makes no sense, TFDS does not know the name or the split, or the
            data set has no images.
        ImportError: TensorFlow, TFDS, or a package this data set needs is not installed.
        RuntimeError: The data set is not on disk and could not be downloaded.

    Example:
        >>> flowers = load_tfds("oxford_flowers102", split="train+validation", image_size=64)
    """
    height, width = check_request(image_size, channels, num_images)
    tf, tfds = _import_tensorflow(name)
    builder = _prepare(tfds, name, data_dir)
    label = _feature(builder, "label")
    has_labels = isinstance(label, tfds.features.ClassLabel)
    wanted = {"image": True, "label": True} if has_labels else {"image": True}

    def read(example):
        image = _fit(tf, _to_channels(tf, example["image"], channels), height, width)
        return image, (example["label"] if has_labels else -1)

    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(wanted),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    examples = examples.take(-1 if num_images is None else num_images)
    examples = list(examples.map(read, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())
    if not examples:
        raise ValueError(f"split={split!r} of {name} has no images")
    images, labels = zip(*examples, strict=True)
    if not has_labels:
        return ImageSet(np.stack(images), None, None)
    return ImageSet(np.stack(images), np.array(labels, np.int32), label.names)


def is_prepared(folder):
    """Whether TFDS prepared this folder: a data set, one of its configurations or versions."""
    folder = Path(folder)
    levels = ("", "*/", "*/*/")
    return any(any(folder.glob(f"{level}dataset_info.json")) for level in levels)


def _import_tensorflow(name):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{str(name)!r} is no folder of images, and to look it up in TensorFlow Datasets run: "
            f"pip install tensorflow tensorflow-datasets. {_ALTERNATIVES}"
        ) from error
    if keras.backend.backend() != "tensorflow":
        try:  # TensorFlow only decodes here: the GPU's memory belongs to the other backend
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError:  # someone has already put it to work, so it keeps what it has
            pass
    return tf, tfds


def _prepare(tfds, name, data_dir):
    """Returns the builder of a data set that is on disk and has images."""
    name = os.fspath(name)
    try:
        builder = _open(tfds, name, data_dir)
        if not isinstance(_feature(builder, "image"), tfds.features.Image):
            raise ValueError(f'{name} has no "image" feature of images: {builder.info.features}')
        builder.download_and_prepare()
    except ImportError as error:
        raise ImportError(
            f"TensorFlow Datasets needs one more package for {name!r}: {error}. "
            f"Install that one with pip. {_ALTERNATIVES}"
        ) from error
    except (OSError, tfds.download.DownloadError) as error:
        raise RuntimeError(
            f"{name!r} is not prepared in {data_dir or 'the data folder of TFDS'} and could not "
            f"be downloaded (no network?): {error}. {_ALTERNATIVES}"
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
        base, *rest = re.split("[/:]", name)
        if base in known or "huggingface" == base:  # then the version or the like is at fault
            raise
        nearest = difflib.get_close_matches(name, known, n=5) or ["none is near"]
    raise ValueError(
        f"{name!r} is neither a folder (looked here, in data_dir={data_dir} and in "
        f"KERAS_DDPM_DATA={os.environ.get('KERAS_DDPM_DATA')}) nor known to TensorFlow Datasets. "
        f"Nearest known names: {', '.join(nearest)}. {_ALTERNATIVES}"
    )


def _feature(builder, name):
    features = builder.info.features  # nearly always a FeaturesDict, which has no method `get`
    return features[name] if hasattr(features, "keys") and name in features else None


def _to_channels(tf, image, channels):
    """Grey, grey + alpha, colour or colour + alpha, 8 or 16 bit, to [0, 1] floats on white."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    shape = tf.shape(image)
    alpha = tf.where(shape[2] % 2 == 0, image[..., -1:], 1.0)
    colour = image[..., : tf.where(shape[2] < 3, 1, 3)]
    colour = tf.broadcast_to(colour * alpha + 1 - alpha, [shape[0], shape[1], 3])
    return colour if channels == 3 else tf.image.rgb_to_grayscale(colour)


def _fit(tf, image, height, width):
    """Crops the centre to the target's shape and resizes it, to uint8."""
    size = tf.shape(image)
    crop_height = tf.clip_by_value(size[1] * height // width, 1, size[0])
    crop_width = tf.clip_by_value(size[0] * width // height, 1, size[1])
    top, left = (size[0] - crop_height) // 2, (size[1] - crop_width) // 2
    image = image[top : top + crop_height, left : left + crop_width]
    image = tf.image.resize(image, (height, width), method="lanczos3", antialias=True)
    return tf.cast(tf.round(255 * tf.clip_by_value(image, 0, 1)), tf.uint8)
