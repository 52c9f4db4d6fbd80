"""Images from a folder, decoded once by Pillow in a thread pool."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from keras_ddpm.data.images import ImageSet, check_request, fit_image

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def load_folder(folder, image_size=64, channels=3, background="white", num_images=None):
    """Loads every image in a folder and its sub-folders.

    When every image is in a sub-folder, the sub-folders directly in `folder` are the classes: their
    names in sorted order, numbers by value ("2" before "10"), number the labels from 0. If any
    image is directly in `folder`, all images are read and there are no labels. Hidden files and
    folders, and files with other extensions, are ignored. Of an animation the first frame is read,
    and the camera's rotation (EXIF) is applied. A damaged file is left out, with a warning.

    Args:
        folder: path of the folder.
        image_size, channels, background: as for `load_images`.
        num_images: read only the first so many files, in sorted order; None is all.

    Returns an `ImageSet` in the order of the labels, then of the paths.
    """
    size = check_request(image_size, channels, num_images)
    try:
        background = ImageColor.getrgb(background)[:3]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'background={background!r} must be a colour or "#rrggbb".') from error
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one with {', '.join(EXTENSIONS)}.")
    paths, labels, class_names = _find_images(folder)
    if not paths:
        raise ValueError(f"{folder} has no images; files read are {', '.join(EXTENSIONS)}.")
    paths = paths[:num_images]
    images = np.empty((len(paths), *size, channels), np.uint8)

    def read(index):
        try:
            with Image.open(paths[index]) as image:
                # A JPEG decoder can shrink by 2, 4 or 8, here to no less than twice what is needed.
                image.draft(None, (2 * max(size),) * 2)
                image = ImageOps.exif_transpose(image)
                images[index] = fit_image(image, size, channels, background)
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            return f"{type(error).__name__}: {error}"
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        reasons = list(pool.map(read, range(len(paths))))
    for path, reason in zip(paths, reasons):
        if reason:
            warnings.warn(f"skipped {path}: {reason}", stacklevel=2)
    good = [index for index, reason in enumerate(reasons) if not reason]
    if not good:
        raise ValueError(f"none of the {len(paths)} images in {folder} can be read: {reasons[0]}")
    return ImageSet(images[good], None if labels is None else labels[good], class_names)


def walk_images(folder):
    """Yields the path of every image below a folder, hidden ones left out, in any order."""
    unreadable = []
    walk = os.walk(folder, onerror=unreadable.append, followlinks=True)
    for directory, sub_folders, files in walk:
        sub_folders[:] = [name for name in sub_folders if name[0] != "."]
        for name in files:
            if name[0] != "." and name.lower().endswith(EXTENSIONS):
                yield Path(directory, name)
    if unreadable:
        raise unreadable[0]


def _find_images(folder):
    """Sorted paths, and labels and class names if every image is in a sub-folder."""
    paths = sorted(walk_images(folder), key=lambda path: path.relative_to(folder).parts)
    tops = [path.relative_to(folder).parts[0] for path in paths]
    if any(path.parent == folder for path in paths):
        return paths, None, None
    names = sorted(
        set(tops), key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)
    )
    labels = np.array([names.index(top) for top in tops], np.int32)
    order = np.argsort(labels, kind="stable")
    return [paths[i] for i in order], labels[order], tuple(names)
