"""Images from data sets of the Hugging Face Hub, read with its library `datasets`."""

from __future__ import annotations

import io

import numpy as np

from keras_ddpm.data.folder import read_image
from keras_ddpm.data.images import ImageSet, check_request
from keras_ddpm.hub import hub_errors, import_for, split_name
from keras_ddpm.types import ImageSize
from keras_ddpm.validation import check_instance


def load_hub(
    name: str,
    split: str = "train",
    image_size: ImageSize = 64,
    channels: int = 3,
    num_images: int | None = None,
) -> ImageSet:
    """Loads an image data set of the Hugging Face Hub, which is downloaded into the hub's cache.

    It must have one column of images, of any name, and may have one of classes. Code of a data set
    is never run. It needs `pip install "keras-ddpm[hub]"`.

    Args:
        name: `"hf://user/name"` or `"hf://user/name@revision"`.
        split: in the syntax of `datasets`: `"train"`, `"train+validation[:50%]"`.
        image_size, channels, num_images: as for `load_images`. Images are read as from a folder.

    Returns an `ImageSet` in the order of the data set. Raises an ImportError without `datasets`,
    and a RuntimeError if the data set could not be downloaded.
    """
    size = check_request(image_size, channels, num_images)
    repo_id, revision = split_name("name", check_instance("name", name, str))
    datasets = import_for(name, "datasets")
    with hub_errors(name, "cannot be loaded"):
        builder = datasets.load_dataset_builder(f"hf://datasets/{repo_id}", revision=revision)
        builder.download_and_prepare()
    try:
        examples = builder.as_dataset(split)
    except ValueError as error:
        raise ValueError(
            f"split={split!r} is no split of {name!r}, which has {list(builder.info.splits)}, nor "
            "parts of them such as 'train[:50%]'."
        ) from error
    columns, labels = (
        [column for column, feature in examples.features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    )
    if len(columns) != 1 or len(labels) > 1:
        raise ValueError(
            f"name={name!r} must have one column of images and at most one of classes, but has "
            f"{columns} and {labels}. Choose with `datasets`, and give arrays to `ImageDataset`."
        )
    count = min(len(examples), num_images or len(examples))
    files = examples.select(range(count)).cast_column(columns[0], datasets.Image(decode=False))
    images = np.empty((count, *size, channels), np.uint8)
    for index, file in enumerate(files[columns[0]]):
        try:
            source = file["path"] if file["bytes"] is None else io.BytesIO(file["bytes"])
            images[index] = read_image(source, size, channels)
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            raise ValueError(f"{name!r}: image {index} cannot be read: {error}") from error
    if not labels:
        return ImageSet(images)
    return ImageSet(images, files[labels[0]][:], examples.features[labels[0]].names)
