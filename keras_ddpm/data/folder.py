"""Images from a folder, whatever format they are in, decoded once by Pillow in a thread pool."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from keras_ddpm.data.images import ImageSet, check_request

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def load_folder(folder, image_size=64, channels=3, background="white", num_images=None):
    """Loads every image in a folder and its sub-folders.

    When every image lies in a sub-folder, the sub-folders directly in `folder` are the classes:
    their names in sorted order, numbers by value ("2" before "10"), number the labels from 0. If
    any image lies directly in `folder`, all images are read and there are no labels. Hidden
    files and folders, and files with other extensions, are ignored; of an animation the first
    frame is taken. Rotation noted by the camera (EXIF) is applied.

    Args:
        folder: Path of the folder.
        image_size: Side in pixels, or (height, width). Images are cropped centrally to this
            shape and resized to it with antialiasing.
        channels: 3 for colour or 1 for grey.
        background: What shows through transparent images: a colour name or "#rrggbb".
        num_images: Read only the first so many files, in sorted order; None is all.

    Returns:
        An ImageSet: images uint8 of shape (n, height, width, channels), labels int32 of shape
        (n,) or None. The order is that of the labels, then of the paths.

    Warns:
        UserWarning: For each file that cannot be read, which is then left out.

    Raises:
        ValueError: An argument makes no sense, or the folder has no readable image.

    Example:
        >>> flowers = load_folder("flowers", image_size=64)  # flowers/rose/1.jpg, flowers/tulip/...
        >>> flowers.label_names
        ('rose', 'tulip')
    """
    height, width = check_request(image_size, channels, num_images)
    try:
        background = ImageColor.getrgb(background)[:3]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f'background must be a colour name or "#rrggbb", got {background!r}'
        ) from error
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one with {', '.join(EXTENSIONS)}")
    paths, labels, label_names = _find_images(folder)
    if not paths:
        raise ValueError(f"{folder} has no images; files read are {', '.join(EXTENSIONS)}")
    paths = paths[:num_images]

    images = np.empty((len(paths), height, width, channels), np.uint8)

    def read(index):
        try:
            images[index] = _decode(paths[index], height, width, channels, background)
        except Exception as error:  # a broken file can make a decoder raise nearly anything
            return f"{type(error).__name__}: {error}"
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        reasons = list(pool.map(read, range(len(paths))))
    for path, reason in zip(paths, reasons, strict=True):
        if reason:
            warnings.warn(f"skipped {path}: {reason}", stacklevel=2)
    good = [index for index, reason in enumerate(reasons) if not reason]
    if not good:
        raise ValueError(f"none of the {len(paths)} images in {folder} can be read: {reasons[0]}")
    if len(good) < len(paths):
        images = images[good]
    return ImageSet(images, None if labels is None else labels[good], label_names)


def walk_images(folder):
    """Yields the path of every image below a folder, hidden ones left out, in any order."""
    unreadable = []
    for directory, sub_folders, files in os.walk(
        folder, onerror=unreadable.append, followlinks=True
    ):
        sub_folders[:] = [name for name in sub_folders if name[0] != "."]
        for name in files:
            if name[0] != "." and name.lower().endswith(EXTENSIONS):
                yield Path(directory, name)
    if unreadable:
        raise unreadable[0]


def _find_images(folder):
    """Returns sorted paths, and labels and label names if every image is in a sub-folder."""
    paths = sorted(walk_images(folder), key=lambda path: path.relative_to(folder).parts)
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return paths, None, None
    names = sorted({part[0] for part in parts}, key=_by_number_then_name)
    number = {name: label for label, name in enumerate(names)}
    paths.sort(key=lambda path: number[path.relative_to(folder).parts[0]])  # stable
    labels = np.sort(np.array([number[part[0]] for part in parts], np.int32))
    return paths, labels, tuple(names)


def _by_number_then_name(name):
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _decode(path, height, width, channels, background):
    with Image.open(path) as image:
        # Lets a JPEG decoder shrink by 2, 4 or 8 as it goes, to no less than twice what is needed.
        image.draft(None, (2 * max(height, width),) * 2)
        image = _to_8_bit(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            backdrop = Image.new("RGBA", image.size, background)
            image = Image.alpha_composite(backdrop, image.convert("RGBA"))
        image = image.convert("RGB" if channels == 3 else "L")
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels)


def _to_8_bit(image):
    """Scales 16-bit grey, which Pillow's own conversion would cut off at 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    grey = np.clip(np.asarray(image, np.float32), 0, 65535) / 257
    return Image.fromarray(np.round(grey).astype(np.uint8))
