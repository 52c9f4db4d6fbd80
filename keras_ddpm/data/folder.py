"""Images from a folder, decoded once by Pillow in a thread pool."""

from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps, features

from keras_ddpm.data.images import ImageSet, bits_of, check_request, fit_image
from keras_ddpm.data.store import read_store
from keras_ddpm.types import ImageSize, PathLike
from keras_ddpm.validation import check_choice, check_class_names, check_path

# What is read, and the decoder of Pillow that each needs. .avif is read where Pillow can.
FORMATS = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}


def load_folder(
    folder: PathLike,
    image_size: ImageSize = 64,
    channels: int = 3,
    background: str = "white",
    num_images: int | None = None,
    class_names: Sequence[str] | None = None,
    store: PathLike | None = None,
    damaged: Literal["skip", "raise"] = "skip",
) -> ImageSet:
    """Loads every image in a folder and its sub-folders.

    When every image is in a sub-folder, the sub-folders directly in `folder` are the classes, also
    one without images: their names in sorted order, numbers by value ("2" before "10"), number the
    labels from 0. If any image is directly in `folder`, all images are read and there are no
    labels. Hidden files and folders are ignored. A folder to which several links lead is read once.

    Of an animation the first frame is read, and the camera's rotation (EXIF) is applied. Grey of
    more than 8 bits is scaled by the bits that a TIFF names, if less than 16, else by the smallest
    of 8, 12 and 16 bits that holds the image's largest value. One warning counts the files with
    other extensions.

    Args:
        folder: path of the folder.
        image_size, channels, background: as for `load_images`.
        num_images: read only the first so many files, in sorted order; None is all.
        class_names: optional names of the classes, such as those of the training images: a
            sub-folder gets the number of its name among them.
        store: optional path of a file `*.npy`, in which the decoded images are kept instead of in
            memory, for sets larger than that. The next call with the same files and options finds
            them there. `ImageDataset` reads a batch when it is needed, in any order.
        damaged: `"skip"` leaves a file that cannot be read out, with a warning; `"raise"` stops
            with a ValueError.

    Returns an `ImageSet` in the order of the labels, then of the paths.
    """
    size = check_request(image_size, channels, num_images)
    check_choice("damaged", damaged, ("skip", "raise"))
    folder = check_path("folder", folder).expanduser()
    try:
        backdrop = ImageColor.getrgb(background)[:3]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'background={background!r} must be a colour or "#rrggbb".') from error
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give one with {', '.join(extensions())}.")
    folders = dict(walk(folder))
    files = [path for paths in folders.values() for path in paths]
    files.sort(key=lambda path: path.relative_to(folder).parts)
    paths = [path for path in files if is_image(path) and path.is_file()]
    not_read = _describe_others(path for path in files if not is_image(path))
    if not paths:
        raise ValueError(f"{folder} has no images; {not_read}.")
    if not all(map(is_image, files)):
        warnings.warn(f"{folder}: {not_read}", stacklevel=2)
    for path in files:  # a pipe, at which reading would wait, or a link that leads nowhere
        if is_image(path) and not path.is_file():
            warnings.warn(f"skipped {path}: it is no regular file", stacklevel=2)
    labels, own = None, class_folders(folder, folders)
    if own is None:
        class_names = None
    else:
        paths, labels, class_names = _label(folder, paths, own, class_names)
        labels = labels[:num_images]
    paths = paths[:num_images]
    shape = (len(paths), *size, channels)

    def decode(images):
        """Fills an array; returns for each file why it was left out, or None."""

        def read(index):
            try:
                images[index] = read_image(paths[index], size, channels, backdrop)
            except Exception as error:  # a damaged file can make a decoder raise nearly anything
                return f"{type(error).__name__}: {error}"
            return None

        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # Pillow frees the GIL
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            reasons = list(pool.map(read, range(len(paths))))
        for new, old in enumerate(np.flatnonzero([reason is None for reason in reasons])):
            if new != old:  # moves up, without a second array of this size
                images[new] = images[old]
        return reasons

    if store is None:
        images = np.empty(shape, np.uint8)
        reasons = decode(images)
    else:
        stats = [(str(path.relative_to(folder)), path.stat()) for path in paths]
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        images, reasons = read_store(check_path("store", store), shape, (backdrop, facts), decode)
    for path, reason in zip(paths, reasons):
        if reason and damaged == "raise":
            raise ValueError(f"damaged='raise': {path} cannot be read: {reason}")
        if reason:
            warnings.warn(f"skipped {path}: {reason}", stacklevel=2)
    good = [index for index, reason in enumerate(reasons) if not reason]
    if not good:
        raise ValueError(f"none of the {len(paths)} images in {folder} can be read: {reasons[0]}")
    labels = None if labels is None else labels[good]
    return ImageSet(images[: len(good)], labels, class_names)


def read_image(path, size, channels, background=(255, 255, 255)):
    """One file as uint8 `(height, width, channels)`, see `fit_image`."""
    decoders = sorted({FORMATS[extension] for extension in extensions()})
    with Image.open(path, formats=decoders) as image:
        # A JPEG decoder can shrink by 2, 4 or 8, here to no less than twice what is needed.
        image.draft(None, (2 * max(size),) * 2)
        bits = bits_of(image)
        return fit_image(ImageOps.exif_transpose(image), size, channels, background, bits)


def read_photographs(argument, photographs, size, channels):
    """Paths and Pillow images, one or a list, as uint8 `(n, height, width, channels)`.

    Errors call them `argument`. What is neither is returned as it is.
    """
    several = photographs if isinstance(photographs, list | tuple) else [photographs]
    if not several or not all(isinstance(one, str | Path | Image.Image) for one in several):
        return photographs
    images = []
    for one in several:
        try:
            if isinstance(one, Image.Image):
                images.append(fit_image(ImageOps.exif_transpose(one), size, channels))
            elif not Path(one).is_file():
                raise FileNotFoundError("there is no such file")
            else:
                images.append(read_image(one, size, channels))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{argument}={str(one)!r}: {error}.") from error
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            text = f"{argument}={str(one)!r} cannot be read: {type(error).__name__}: {error}"
            raise ValueError(text) from error
    return np.stack(images)


@functools.cache
def extensions():
    """The extensions of the files that are read."""
    can_avif = "avif" in features.get_supported_modules()
    return tuple(extension for extension in FORMATS if can_avif or extension != ".avif")


def is_image(path):
    """Whether the name of a file is that of an image that can be read."""
    return path.suffix.lower() in extensions()


def walk(folder):
    """Yields `(folder, paths of its files)` for a folder and all below it, without hidden ones.

    Links are followed, but not to a folder that has been seen, nor to one that holds `folder`.
    """
    errors = []
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    tops = [folder]
    for top in tops:  # the list grows: links come after all folders that are no links
        for directory, names, files in os.walk(top, onerror=errors.append):
            real, directory = os.path.realpath(directory), Path(directory)
            names[:] = () if real in seen else sorted(filter(is_visible, names))
            if real not in seen:
                seen.add(real)
                tops += [directory / name for name in names if (directory / name).is_symlink()]
                yield directory, [directory / name for name in files if is_visible(name)]
    if errors:
        raise errors[0]


def is_visible(name):
    """Whether a file or folder is not hidden; __MACOSX is what macOS adds to an archive."""
    return name[0] != "." and name != "__MACOSX"


def class_folders(folder, folders=None):
    """The names of the sub-folders that are classes, in their order; None without classes.

    `folders` is what `walk` found, if it is known.
    """
    folders = folders or dict(walk(folder))
    if any(is_image(path) and path.is_file() for path in folders[folder]):
        return None
    names = {path.name for path in folders if path.parent == folder and path != folder}
    return tuple(sorted(names, key=_by_value)) or None


def _by_value(name):
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _label(folder, paths, own, class_names):
    """Paths sorted by their class, and their labels and class names. `own` are the sub-folders."""
    names = check_class_names("class_names", own if class_names is None else class_names)
    if unknown := [name for name in own if name not in names]:
        raise ValueError(
            f"{folder} has classes that are not among the {len(names)} class names: "
            f"{', '.join(unknown)}. Load it by its own path to number its classes by themselves."
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[path.relative_to(folder).parts[0]] for path in paths], np.int32)
    order = np.argsort(labels, kind="stable")
    return [paths[i] for i in order], labels[order], names


def _describe_others(paths):
    """`"not read: 2 files of .heic, 1 of .txt; files read are …"`."""
    counts = Counter(path.suffix.lower() or "no extension" for path in paths).most_common()
    parts = [f"{count} of {extension}" for extension, count in counts]
    if counts:
        parts[0] = f"{counts[0][1]} file{'s' * (counts[0][1] > 1)} of {counts[0][0]}"
    not_read = f"not read: {', '.join(parts)}; " if parts else ""
    return f"{not_read}files read are {', '.join(extensions())}"
