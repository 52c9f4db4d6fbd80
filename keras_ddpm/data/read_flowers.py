"""Reads a drawn flower's label back from its pixels: names its colour, then counts its petals.

It is a judge for samples of a model that was trained on `draw_flowers`.
"""

import functools

import numpy as np

from keras_ddpm.data.drawn_flowers import (
    BROWN_CENTRE,
    GROUND_BOTTOM,
    GROUND_TOP,
    LEAF,
    PETAL_BASE,
    PETAL_TIP,
    PETALS,
    SMALLEST_SIZE,
    in_chunks,
)

_READ_SIZE = 32  # larger pictures are averaged down to about this before they are read
_ANGLES = 64
_WAVES = 12  # how many bumps per turn are told apart; more than the most petals


def describe_flowers(images):
    """Read the label of each picture back from its pixels.

    Each pixel votes for the named colour it resembles. The pixels of the winning colour are the
    flower; walking around its middle, the number of bumps per turn is the number of petals. The
    reader knows the colours but no outline, so it can judge samples as well as drawings.

    Args:
        images: (n, height, width, 3), RGB; uint8 in 0..255, or floats in -1..1. Sides >= 16.

    Returns:
        labels: int32, (n,), indices into `LABEL_NAMES`; -1 where no flower is recognised.
        confidence: float32, (n,), in 0..1; 0 where the label is -1.

    Raises:
        TypeError: `images` is neither uint8 nor float.
        ValueError: The shape or the range of the values is wrong.

    Example:
        >>> from keras_ddpm.data import draw_flowers
        >>> images, labels = draw_flowers(100)
        >>> found, confidence = describe_flowers(images)
        >>> bool((found == labels).mean() > 0.98)
        True
    """
    images = _check_images(images)
    labels = np.empty(len(images), np.int32)
    confidence = np.empty(len(images), np.float32)
    for rows in in_chunks(len(images), images.shape[1] * images.shape[2]):
        labels[rows], confidence[rows] = _read(images[rows])
    return labels, confidence


def _read(images):
    """Labels and confidence of uint8 pictures."""
    images = _reduce(images)
    side = min(images.shape[1:3])
    votes = _colour_votes()[tuple(np.moveaxis(images >> 3, -1, 0))]
    totals = votes.sum((1, 2))
    colour = totals.argmax(1)
    colour_share = totals.max(1) / np.maximum(totals.sum(1), 1e-3)
    mask = np.take_along_axis(votes, colour[:, None, None, None], axis=3)[..., 0]

    centre_x, centre_y, spread, solidity = _measure(mask)
    profile = _profile(mask, centre_x, centre_y, spread)
    waves = np.abs(np.fft.rfft(profile, axis=1))[:, 1 : _WAVES + 1] / (_ANGLES / 2)
    count = waves.argmax(1) + 1
    height_of_bumps = waves.max(1)
    bump_share = height_of_bumps**2 / np.maximum((waves**2).sum(1), 1e-6)

    recognised = (
        np.isin(count, PETALS)
        & (height_of_bumps > 0.045)  # a disc has none
        & (colour_share > 0.5)  # noise is of every colour
        & (solidity > 0.38)  # scattered dots have no middle
        & (spread < 0.38 * side)  # a whole picture of one colour is wider than a flower
    )
    labels = colour * len(PETALS) + np.searchsorted(PETALS, count)
    return np.where(recognised, labels, -1), np.where(recognised, colour_share * bump_share, 0)


def _reduce(images):
    """Average whole blocks of pixels, so that every picture is read at about the same size."""
    n, height, width, _ = images.shape
    k = max(1, min(height, width) // _READ_SIZE)
    if k == 1:
        return images
    height, width = height // k, width // k
    blocks = images[:, : height * k, : width * k].reshape(n, height, k, width, k, 3)
    return blocks.mean((2, 4), dtype=np.float32).astype(np.uint8)


@functools.cache
def _colour_votes():
    """For each RGB (5 bits per channel), how much it resembles each of COLOURS, in 0..1.

    float32, (32, 32, 32, len(COLOURS)). Ground colours compete as well, so the sum may be near 0.
    """
    steps = (np.arange(32, dtype=np.float32) + 0.5) / 32
    every = _opponent(np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1))
    middle = (GROUND_TOP + GROUND_BOTTOM) / 2
    others = [[0, 0, 0], [0.5, 0.5, 0.5], LEAF, BROWN_CENTRE]
    families = [*np.stack([PETAL_BASE, (PETAL_BASE + PETAL_TIP) / 2, PETAL_TIP], axis=1)]
    families.append(np.concatenate([GROUND_TOP, middle, GROUND_BOTTOM, others]))
    nearest = [
        np.min([np.square(every - _opponent(shade)).sum(-1) for shade in family], axis=0)
        for family in families
    ]
    likeness = np.exp(-np.stack(nearest, axis=-1) / 0.1**2) + 1e-9
    return (likeness / likeness.sum(-1, keepdims=True))[..., :-1].astype(np.float32)


def _opponent(rgb):
    """Red against green, yellow against blue, and brightness, which counts for less."""
    r, g, b = np.moveaxis(np.asarray(rgb, np.float32), -1, 0)
    return np.stack([r - g, (r + g) / 2 - b, (r + g + b) / 6], axis=-1)


def _measure(mask):
    """Centre, spread (root mean square radius) and solidity (how full the middle is), each (n,)."""
    y, x = np.mgrid[: mask.shape[1], : mask.shape[2]].astype(np.float32)
    weight = mask
    for _ in range(3):  # the first round finds the flower; the next ones leave stray pixels out
        area = np.maximum(weight.sum((1, 2)), 1e-3)
        centre_x, centre_y = (weight * x).sum((1, 2)) / area, (weight * y).sum((1, 2)) / area
        far = (x - centre_x[:, None, None]) ** 2 + (y - centre_y[:, None, None]) ** 2
        spread = np.sqrt(np.maximum((weight * far).sum((1, 2)) / area, 1))
        weight = mask * (far < 4 * spread[:, None, None] ** 2)
    middle = (weight * (far < spread[:, None, None] ** 2)).sum((1, 2))
    return centre_x, centre_y, spread, middle / (np.pi * spread**2)


def _profile(mask, centre_x, centre_y, spread):
    """Walk around the centre: how much mask lies outward at each angle; (n, _ANGLES)."""
    n, height, width = mask.shape
    angle = np.arange(_ANGLES, dtype=np.float32) * np.float32(2 * np.pi / _ANGLES)
    reach = spread[:, None, None] * np.linspace(0.6, 1.7, 12, dtype=np.float32)[:, None]
    # Bilinear samples; a border of zeros stands for everything outside the picture.
    x = np.clip(centre_x[:, None, None] + reach * np.cos(angle), -1, width) + 1
    y = np.clip(centre_y[:, None, None] + reach * np.sin(angle), -1, height) + 1
    padded = np.pad(mask, ((0, 0), (1, 2), (1, 2)))
    left, top = x.astype(np.intp), y.astype(np.intp)
    x, y, picture = x - left, y - top, np.arange(n)[:, None, None]
    upper = padded[picture, top, left] * (1 - x) + padded[picture, top, left + 1] * x
    lower = padded[picture, top + 1, left] * (1 - x) + padded[picture, top + 1, left + 1] * x
    return (upper * (1 - y) + lower * y).mean(1)


def _check_images(images):
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            "images must have shape (n, height, width, 3); for one picture pass images[None]; "
            f"got shape {images.shape}"
        )
    if min(images.shape[1:3]) < SMALLEST_SIZE:
        raise ValueError(
            f"images must be at least {SMALLEST_SIZE} pixels high and wide, "
            f"got shape {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"images must be uint8 in 0..255 or float in -1..1, got {images.dtype}")
    if images.size and not np.abs(images).max() <= 1 + 1e-3:  # written so that NaN fails too
        raise ValueError(
            "images of floats must be in -1..1 (use numpy.clip on samples, or pass uint8), "
            f"got values from {images.min()} to {images.max()}"
        )
    return np.rint((np.clip(images, -1, 1).astype(np.float32) + 1) * 127.5).astype(np.uint8)
