"""A set of images in memory, and how one image is brought to its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from keras_ddpm.validation import (
    check_class_names,
    check_int,
    check_labels,
    check_number,
    check_size,
    to_array,
)

BITS_PER_SAMPLE = 258  # a tag of TIFF


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, with their labels if they have any.

    >>> flowers = ImageSet(np.zeros((10, 8, 8, 3), "uint8"))
    >>> rest, held_out = flowers.split(0.2)
    >>> len(rest), len(held_out)
    (8, 2)
    """

    images: np.ndarray  # uint8 `(n, height, width, channels)`
    labels: np.ndarray | None = None  # ints from 0, or class names, `(n,)`; kept as int32
    class_names: Sequence[str] | None = None

    def __post_init__(self):
        images = np.asarray(self.images)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"images of shape {images.shape} and dtype {images.dtype} must be uint8 "
                "(n, height, width, channels)."
            )
        object.__setattr__(self, "images", images)
        if self.class_names is not None:
            names = check_class_names("class_names", self.class_names)
            object.__setattr__(self, "class_names", names)
        if self.labels is not None:
            if to_array("labels", self.labels).ndim != 1:
                raise ValueError(f"labels must be ({len(images)},), not {self.labels!r}.")
            count = None if self.class_names is None else len(self.class_names)
            labels = check_labels("labels", self.labels, len(images), count, self.class_names)
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self):
        classes = "no labels" if self.labels is None else f"{self.num_classes} classes"
        return f"ImageSet of {len(self)} images {self.images.shape[1:]}, {classes}"

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None without labels."""
        if self.labels is None:
            return None
        return len(self.class_names) if self.class_names else int(self.labels.max()) + 1

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """`(rest, held_out)`: holds out a random share, the same for the same length and seed."""
        check_number("fraction", fraction, "(0, 1)")
        check_int("seed", seed, minimum=0)
        if len(self) < 2:
            raise ValueError(f"a set of {len(self)} images cannot be split.")
        num_held_out = min(max(round(fraction * len(self)), 1), len(self) - 1)
        order = np.random.default_rng(seed).permutation(len(self))
        held_out, rest = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
        return self.take(rest), self.take(held_out)

    def take(self, indices: np.ndarray | Sequence[int]) -> ImageSet:
        """The images of these numbers."""
        labels = None if self.labels is None else self.labels[indices]
        return ImageSet(self.images[indices], labels, self.class_names)


def check_request(image_size, channels, num_images) -> tuple[int, int]:
    """Checks what every loader is asked for; returns (height, width)."""
    if check_int("channels", channels) not in (1, 3):
        raise ValueError(f"channels={channels!r} must be 3 for colour or 1 for grey.")
    if num_images is not None:
        check_int("num_images", num_images)
    return check_size("image_size", image_size)


def bits_of(image):
    """The bits of a number in the file of a Pillow image, as far as they are known; else None."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE)
    if bits:
        return bits[0] if isinstance(bits, tuple) else bits
    return 16 if ";16" in str(getattr(image, "tile", "")) else None


def to_8_bits(values, bits=None):
    """Whole numbers of more than 8 bits as uint8, an array of the same shape.

    They are scaled by `bits` if these are less than 16, else by the smallest of 8, 12 and 16 bits
    that holds the largest value: cameras write 12 bits into files of 16. A ValueError if a value
    is negative or larger than 16 bits hold.
    """
    low, high = int(values.min()), int(values.max())
    known = [bits] if bits is not None and bits < 16 else [8, 12, 16]
    bits = next((bits for bits in known if high < 2**bits), None)
    if low < 0 or bits is None:
        raise ValueError(f"pixels from {low} to {high} do not lie in [0, {2 ** known[-1] - 1}]")
    return np.round(values * (255 / (2**bits - 1))).astype(np.uint8)


def fit_image(image, size, channels, background=(255, 255, 255), bits=None):
    """One Pillow image of any mode, cropped centrally to the shape of `size` and resized to it with
    antialiasing, uint8 `(height, width, channels)`. `background` shows through transparent pixels,
    and `bits` are those of `to_8_bits`.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # grey of 16 or 32 bits, which Pillow would cut off at 255
        image = Image.fromarray(to_8_bits(np.asarray(image), bits))
    elif bits == 16 and image.convert("L").getextrema()[1] < 16:
        # Pillow keeps the upper 8 bits of such colours.
        raise ValueError("colours of 16 bits that use 12 of them or less would come out black")
    if image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(backdrop, image.convert("RGBA"))
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(*size, channels)
