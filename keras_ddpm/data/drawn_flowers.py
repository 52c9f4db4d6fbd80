"""The embedded data set: flowers drawn by formula, with no download and a known ground truth.

A flower is one petal outline, repeated around a centre. `benchmarks/read_flowers.py` reads the
colour and the number of petals back from pixels, so that samples of a model can be checked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from keras_ddpm.types import ImageSize
from keras_ddpm.validation import check_int, check_labels, check_size

COLOURS = ("red", "yellow", "blue", "violet", "pink", "white")
PETALS = (4, 5, 6, 8)
CLASS_NAMES = tuple(f"{colour} {petals}-petalled" for colour in COLOURS for petals in PETALS)

MIN_SIZE = 16  # below this, eight petals are no longer countable

# Petal colours, RGB in 0..1, in the order of COLOURS: near the centre, and at the tip.
PETAL_BASE = np.array(
    [[0.60, 0.04, 0.10], [0.98, 0.64, 0.06], [0.16, 0.22, 0.68],
     [0.36, 0.12, 0.58], [0.86, 0.26, 0.52], [0.82, 0.86, 0.78]],
    np.float32,
)  # fmt: skip
PETAL_TIP = np.array(
    [[0.94, 0.16, 0.14], [1.00, 0.88, 0.22], [0.34, 0.54, 0.98],
     [0.66, 0.38, 0.90], [1.00, 0.64, 0.78], [1.00, 1.00, 0.98]],
    np.float32,
)  # fmt: skip
# The disc in the middle contrasts with the petals around it.
_CENTRE = np.array(
    [[0.98, 0.80, 0.25], [0.48, 0.25, 0.08], [0.99, 0.86, 0.35],
     [0.99, 0.82, 0.30], [0.99, 0.88, 0.42], [0.98, 0.74, 0.12]],
    np.float32,
)  # fmt: skip
# Backgrounds run from a top colour to a bottom colour; none of them is a petal colour.
GROUND_TOP = np.array(
    [[0.42, 0.60, 0.34], [0.20, 0.38, 0.26], [0.40, 0.33, 0.26],
     [0.34, 0.42, 0.46], [0.54, 0.66, 0.68]],
    np.float32,
)  # fmt: skip
GROUND_BOTTOM = np.array(
    [[0.20, 0.38, 0.16], [0.08, 0.20, 0.14], [0.22, 0.17, 0.12],
     [0.16, 0.24, 0.24], [0.34, 0.50, 0.40]],
    np.float32,
)  # fmt: skip

LEAF = np.array([0.24, 0.46, 0.18], np.float32)
BROWN_CENTRE = _CENTRE[1]

_NUMBERS_PER_IMAGE = 64  # random numbers set aside for each picture; drawing uses about 50
_PIXELS_PER_CHUNK = 1 << 16  # small enough for a chunk's arrays to stay in the CPU's cache
_OVERSAMPLE = 2  # edges are already soft by formula; 2 x 2 averaging hides what is left


def draw_flowers(
    num_images: int,
    image_size: ImageSize = 32,
    seed: int = 0,
    labels: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws labelled pictures of flowers.

    Picture i depends only on `seed`, i and its label, so a short data set is the beginning of a
    longer one.

    Args:
        num_images: int >= 1.
        image_size: int or (height, width), each at least 16.
        seed: int >= 0.
        labels: None for balanced classes in random order, or `num_images` ints or names of
            `CLASS_NAMES`: label = colour index * len(PETALS) + petal index.

    Returns:
        uint8 images `(num_images, height, width, 3)`, and int32 labels `(num_images,)`.

    >>> images, labels = draw_flowers(3, image_size=32, labels=["red 6-petalled"] * 3)
    >>> images.shape, labels
    ((3, 32, 32, 3), array([2, 2, 2], dtype=int32))
    """
    num_images = check_int("num_images", num_images)
    seed = check_int("seed", seed, minimum=0)
    height, width = check_size("image_size", image_size)
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"image_size={image_size} must be at least {MIN_SIZE}.")
    if labels is None:
        labels = _balanced_labels(num_images, seed)
    else:
        labels = check_labels("labels", labels, num_images, len(CLASS_NAMES), CLASS_NAMES)
    # Row i of this table is all the chance in picture i, however many rows there are.
    table = np.random.default_rng(seed).random((num_images, _NUMBERS_PER_IMAGE), np.float32)
    images = np.empty((num_images, height, width, 3), np.uint8)
    for rows in in_chunks(num_images, height * width * _OVERSAMPLE**2):
        images[rows] = _paint(labels[rows], table[rows], height, width)
    return images, labels


# ---- label -> pixels -------------------------------------------------------------------------
# Lengths are in units of the picture's shorter side; y grows downward. Arrays of pixels are flat,
# (batch, pixels), and what is drawn once per picture is (batch, 1). Distances are negative inside
# an outline.


class _Chance:
    """Hands out each picture's random numbers, one column of the table after another."""

    def __init__(self, table):
        self._columns = iter(table.T[:, :, None])

    def between(self, low, high):
        return low + (high - low) * next(self._columns)

    def per_petal(self):
        return np.concatenate([self.between(-1, 1) for _ in range(max(PETALS))], axis=1)


def _paint(labels, table, height, width):
    """Paint pictures back to front: scenery, leaves, shadow, petals, centre."""
    chance = _Chance(table)
    colour, count = labels // len(PETALS), np.take(PETALS, labels % len(PETALS))[:, None]
    side = min(height, width)
    edge = np.float32(0.7 / side)  # how far the soft edge of an outline reaches
    y, x = np.mgrid[: height * _OVERSAMPLE, : width * _OVERSAMPLE].reshape(2, 1, -1)
    x = (((x + 0.5) / _OVERSAMPLE - width / 2) / side).astype(np.float32)
    y = (((y + 0.5) / _OVERSAMPLE - height / 2) / side).astype(np.float32)

    radius = chance.between(0.37, 0.47)
    room = 0.53 - radius
    dx = x - room * chance.between(-1, 1)  # from here on, positions seen from the flower's centre
    dy = y - room * chance.between(-1, 1)

    picture = _scenery(chance, x, y)
    picture = _add_leaves(picture, chance, dx, dy, radius, edge)
    petal = _petal_outline(chance, count, radius)
    picture = _add_shadow(picture, chance, dx, dy, radius, petal)
    picture = _add_petals(picture, chance, dx, dy, radius, petal, colour, edge)
    picture = _add_centre(picture, chance, dx, dy, radius, colour, edge)
    picture = picture.reshape(-1, height, _OVERSAMPLE, width, _OVERSAMPLE, 3).mean((2, 4))
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _scenery(chance, x, y):
    """A tilted gradient from top to bottom, with one soft glow."""
    kind = (chance.between(0, 1) * len(GROUND_TOP)).astype(np.intp)
    down = np.clip(0.5 + 0.9 * (y + chance.between(-0.6, 0.6) * x), 0, 1)
    picture = _mix(GROUND_TOP[kind], GROUND_BOTTOM[kind], down)
    far = (x - chance.between(-0.5, 0.5)) ** 2 + (y - chance.between(-0.5, 0.0)) ** 2
    glow = chance.between(0.0, 0.14) * np.exp(-far / 0.06)
    return picture + (glow + chance.between(-0.04, 0.04))[..., None]


def _add_leaves(picture, chance, dx, dy, radius, edge):
    """A stem that bends away, and a leaf on either side of it, all behind the flower."""
    green = LEAF * chance.between(0.8, 1.25)[..., None]
    stem = np.maximum(np.abs(dx - chance.between(-0.5, 0.5) * dy * dy) - 0.018, -dy)
    picture = _mix(picture, 0.8 * green, _cover(stem, edge))
    for sign in (-1, 1):
        angle = np.pi / 2 + sign * chance.between(0.5, 1.1)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        length = radius * chance.between(1.15, 1.45)
        half_width = radius * chance.between(0.16, 0.26)
        leaf, _ = _blade(along, across, length, half_width, rise=0.8, fall=0.9)
        halves = 1 + 0.22 * np.tanh(across / 0.02)  # light and dark, on either side of the midrib
        picture = _mix(picture, green * halves[..., None], _cover(leaf, edge))
    return picture


def _petal_outline(chance, count, radius):
    """Choose a flower's petal form; return a function that finds the nearest petal's outline."""
    turn = chance.between(0, 2 * np.pi)
    rise, fall = chance.between(0.55, 1.0), chance.between(0.38, 0.75)  # large fall: pointed tip
    widest = radius * rise / (rise + fall)
    spacing = (2 * np.pi / count).astype(np.float32)
    half_width = np.minimum(widest * np.tan(spacing / 2), 0.42 * radius)
    half_width = half_width * chance.between(0.78, 1.0)
    # Half of the flowers have a notch in each tip, unless it would look like twice the petals.
    notch = np.maximum(chance.between(-0.12, 0.12), 0) * np.clip((8 - count) / 3, 0, 1)
    own_turn, own_length, own_shade = (chance.per_petal() for _ in range(3))

    def petal(dx, dy):
        """Signed distance, position along (0..1) and across (-1..1), and the petal's own shade."""
        angle = np.arctan2(dy, dx) - turn
        number = np.rint(angle / spacing)
        angle -= number * spacing
        number = np.mod(number, count).astype(np.intp)
        angle -= 0.07 * spacing * np.take_along_axis(own_turn, number, 1)
        reach = np.hypot(dx, dy)
        along, across = reach * np.cos(angle), reach * np.sin(angle)
        length = radius * (1 + 0.06 * np.take_along_axis(own_length, number, 1))
        length *= 1 - notch * np.exp(-((across / (0.35 * half_width)) ** 2))
        distance, position = _blade(along, across, length, half_width, rise, fall)
        return distance, position, across / half_width, np.take_along_axis(own_shade, number, 1)

    return petal


def _add_shadow(picture, chance, dx, dy, radius, petal):
    """A soft shadow of the petals, fallen to the lower right."""
    distance, *_ = petal(dx - 0.06 * radius, dy - 0.10 * radius)
    strength = chance.between(0.25, 0.45)
    return picture * (1 - strength * _cover(distance - 0.02, 0.05))[..., None]


def _add_petals(picture, chance, dx, dy, radius, petal, colour, edge):
    """Petals: darker at the base, along the vein and at the rim; lighter toward the light."""
    distance, position, across, own_shade = petal(dx, dy)
    toward_tip = np.clip((position - chance.between(-0.1, 0.2)) / 0.7, 0, 1)
    paint = _mix(PETAL_BASE[colour][:, None], PETAL_TIP[colour][:, None], toward_tip)
    tint = [chance.between(low, high) for low, high in ((0.94, 1.03), (0.93, 1.03), (0.93, 1.05))]
    light = 1 - 0.10 * (dx + dy) / radius + 0.05 * own_shade
    light -= chance.between(0.0, 0.16) * np.exp(-((across / 0.16) ** 2)) * (1 - position)
    light -= 0.14 * np.exp(np.minimum(distance, 0) / 0.02)
    paint *= np.stack(tint, -1) * light[..., None]
    return _mix(picture, paint, _cover(distance, edge))


def _add_centre(picture, chance, dx, dy, radius, colour, edge):
    """A small dome, lit from the upper left, with a shadow around it."""
    size = radius * chance.between(0.19, 0.27)
    distance = np.hypot(dx, dy) - size
    inside = np.minimum(distance, 0)
    light = 0.95 - 0.175 * np.clip((dx + dy) / size, -2, 2) - 0.2 * np.exp(inside / 0.02)
    picture = picture * (1 - 0.3 * _cover(distance - 0.02, 0.02))[..., None]
    return _mix(picture, _CENTRE[colour][:, None] * light[..., None], _cover(distance, edge))


def _blade(along, across, length, half_width, rise, fall):
    """Outline shared by petals and leaves: half width ~ position^rise * (1 - position)^fall.

    Returns the signed distance to the outline, and the position along it in 0..1.
    """
    position = np.clip(along / length, 1e-3, 1 - 1e-3)
    widest = rise / (rise + fall)
    scale = half_width / (widest**rise * (1 - widest) ** fall)
    half = scale * np.exp(rise * np.log(position) + fall * np.log1p(-position))
    sideways = np.abs(across) - half
    # Where the outline slopes, it is nearer than it is sideways. Far outside, near a steep tip,
    # that correction would be much too strong, so it is limited.
    slope = half / length * (rise / position - fall / (1 - position))
    limit = np.where(sideways > 0, 1, 16)
    distance = sideways / np.sqrt(1 + np.minimum(slope * slope, limit))
    beyond = np.maximum(along - length, -along)
    return np.where(beyond > 0, np.hypot(across, beyond), distance), position


def _cover(distance, softness):
    """Share of a pixel that lies inside an outline, from the signed distance to it."""
    return np.clip(0.5 - distance / (2 * softness), 0, 1)


def _mix(under, over, share):
    return under + (over - under) * share[..., None]


def _balanced_labels(num_images, seed) -> np.ndarray:
    """Shuffle the classes block after block, so that every beginning is balanced too."""
    blocks = -(-num_images // len(CLASS_NAMES))
    order = np.random.default_rng((seed, 1)).random((blocks, len(CLASS_NAMES)))
    return np.argsort(order, axis=1).ravel()[:num_images].astype(np.int32)


def in_chunks(num_images, pixels_per_image):
    step = max(1, _PIXELS_PER_CHUNK // pixels_per_image)
    return [slice(start, start + step) for start in range(0, num_images, step)]
