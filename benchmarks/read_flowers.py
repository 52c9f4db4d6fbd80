"""Reads the label of a drawn flower from its pixels: names its colour, then counts its petals.

It is for samples of a model that was trained on `draw_flowers`. It compares colours but no
outlines, so it reads samples as well as drawings.
"""

import functools

import numpy as np

from keras_ddpm.data.drawn_flowers import (
    BROWN_CENTRE,
    GROUND_BOTTOM,
    GROUND_TOP,
    LEAF,
    MIN_SIZE,
    PETAL_BASE,
    PETAL_TIP,
    PETALS,
    in_chunks,
)
from keras_ddpm.pixels import to_uint8
from keras_ddpm.validation import check_images

READ_SIZE = 32  # larger images are averaged down to about this size
NUM_ANGLES = 64
MAX_WAVES = 12  # bumps in one turn that are told apart; more than the most petals


def read_flowers(images):
    """The labels of drawn flowers.

    Each pixel votes for the colour that it resembles. The pixels of the winning colour are the
    flower. The number of bumps in one turn around its centre is the number of petals.

    `images` are RGB `(n, height, width, 3)`, uint8 or float in [-1, 1], sides of at least 16.
    Returns labels int32 `(n,)`, indices into `CLASS_NAMES` or -1 where no flower is recognised, and
    confidences float32 `(n,)` in [0, 1].

    >>> from keras_ddpm.data import draw_flowers
    >>> images, labels = draw_flowers(100)
    >>> bool((read_flowers(images)[0] == labels).mean() > 0.98)
    True
    """
    images = to_uint8(check_images("images", images))
    if images.shape[-1] != 3 or min(images.shape[1:3]) < MIN_SIZE:
        raise ValueError(f"images have shape {images.shape}; give RGB of at least {MIN_SIZE}².")
    labels = np.empty(len(images), "int32")
    confidence = np.empty(len(images), "float32")
    for rows in in_chunks(len(images), images.shape[1] * images.shape[2]):
        labels[rows], confidence[rows] = _read(images[rows])
    return labels, confidence


def _read(images):
    images = _reduce(images)
    side = min(images.shape[1:3])
    votes = _colour_votes()[tuple(np.moveaxis(images >> 3, -1, 0))]
    totals = votes.sum((1, 2))
    colour = totals.argmax(1)
    colour_share = totals.max(1) / np.maximum(totals.sum(1), 1e-3)
    mask = np.take_along_axis(votes, colour[:, None, None, None], axis=3)[..., 0]

    centre_x, centre_y, spread, solidity = _measure(mask)
    profile = _profile(mask, centre_x, centre_y, spread)
    waves = np.abs(np.fft.rfft(profile, axis=1))[:, 1 : MAX_WAVES + 1] / (NUM_ANGLES / 2)
    count = waves.argmax(1) + 1
    height = waves.max(1)
    share = height**2 / np.maximum((waves**2).sum(1), 1e-6)

    recognised = (
        np.isin(count, PETALS)
        & (height > 0.045)  # a disc has no bumps
        & (colour_share > 0.5)  # noise is of every colour
        & (solidity > 0.38)  # scattered dots have no middle
        & (spread < 0.38 * side)  # an image of one colour is wider than a flower
    )
    labels = colour * len(PETALS) + np.searchsorted(PETALS, count)
    return np.where(recognised, labels, -1), np.where(recognised, colour_share * share, 0)


def _reduce(images):
    """Averages whole blocks of pixels, so that every image is read at about the same size."""
    n, height, width, _ = images.shape
    k = max(1, min(height, width) // READ_SIZE)
    height, width = height // k, width // k
    blocks = images[:, : height * k, : width * k].reshape(n, height, k, width, k, 3)
    return blocks.mean((2, 4), dtype="float32").astype("uint8")


@functools.cache
def _colour_votes():
    """How much each RGB, with 5 bits for a channel, resembles each of COLOURS, in [0, 1].

    float32 `(32, 32, 32, len(COLOURS))`. Ground colours compete as well, so the sum may be near 0.
    """
    steps = (np.arange(32, dtype="float32") + 0.5) / 32
    every = _opponent(np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1))
    others = [[0, 0, 0], [0.5, 0.5, 0.5], LEAF, BROWN_CENTRE]
    grounds = np.concatenate([GROUND_TOP, (GROUND_TOP + GROUND_BOTTOM) / 2, GROUND_BOTTOM, others])
    families = [*np.stack([PETAL_BASE, (PETAL_BASE + PETAL_TIP) / 2, PETAL_TIP], axis=1), grounds]
    nearest = [
        np.min([np.square(every - _opponent(shade)).sum(-1) for shade in family], axis=0)
        for family in families
    ]
    likeness = np.exp(-np.stack(nearest, axis=-1) / 0.1**2) + 1e-9
    return (likeness / likeness.sum(-1, keepdims=True))[..., :-1].astype("float32")


def _opponent(rgb):
    """Red against green, yellow against blue, and brightness, which counts for less."""
    r, g, b = np.moveaxis(np.asarray(rgb, "float32"), -1, 0)
    return np.stack([r - g, (r + g) / 2 - b, (r + g + b) / 6], axis=-1)


def _measure(mask):
    """Centre, spread (root mean square radius) and solidity (how full the middle is), each (n,)."""
    y, x = np.mgrid[: mask.shape[1], : mask.shape[2]].astype("float32")
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
    """How much of the mask lies outward of the centre at each angle: `(n, NUM_ANGLES)`."""
    n, height, width = mask.shape
    angle = np.arange(NUM_ANGLES, dtype="float32") * np.float32(2 * np.pi / NUM_ANGLES)
    reach = spread[:, None, None] * np.linspace(0.6, 1.7, 12, dtype="float32")[:, None]
    # Bilinear interpolation; a border of zeros stands for everything outside the image.
    x = np.clip(centre_x[:, None, None] + reach * np.cos(angle), -1, width) + 1
    y = np.clip(centre_y[:, None, None] + reach * np.sin(angle), -1, height) + 1
    padded = np.pad(mask, ((0, 0), (1, 2), (1, 2)))
    left, top = x.astype("intp"), y.astype("intp")
    x, y, image = x - left, y - top, np.arange(n)[:, None, None]
    upper = padded[image, top, left] * (1 - x) + padded[image, top, left + 1] * x
    lower = padded[image, top + 1, left] * (1 - x) + padded[image, top + 1, left + 1] * x
    return (upper * (1 - y) + lower * y).mean(1)
