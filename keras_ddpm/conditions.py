"""Conditions that are made from the images themselves: what a conditional network is for.

A `DiffusionModel` keeps one as `conditioning`, so that its training needs images only. `draw` makes
the conditions of a training batch, with tensors; `make` those for sampling, with NumPy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from keras_ddpm.types import Tensor
from keras_ddpm.validation import check_instance, check_int, check_number

GREY = (0.299, 0.587, 0.114)  # the luma of ITU-R BT.601, as Pillow's convert("L")


class Conditioning:
    """What all of them have. Images are float, `(batch, height, width, channels)` in [-1, 1]."""

    use: ClassVar[str]  # what makes a condition of this kind for sampling, in words

    def channels(self, sample_shape: tuple[int, int, int]) -> int:
        """The `condition_channels` of a network for images of this shape."""
        raise NotImplementedError

    def draw(self, images: Tensor, seed: keras.random.SeedGenerator) -> Tensor:
        """The conditions of training images, a tensor `(batch, height, width, channels)`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def check_conditioning(conditioning, sample_shape, condition_shape):
    """Refuses a network whose condition is not what `conditioning` makes."""
    check_instance("conditioning", conditioning, Conditioning)
    expected = (*sample_shape[:2], conditioning.channels(sample_shape))
    if condition_shape != expected:
        raise ValueError(
            f"conditioning={conditioning!r} makes conditions of shape {expected}, but those of the "
            f"network are {condition_shape}: build it with condition_channels={expected[-1]}."
        )


@keras.saving.register_keras_serializable("keras_ddpm")
@dataclass(frozen=True)
class SuperResolution(Conditioning):
    """The image with fewer pixels, and how much noise it has: Ho et al. (2022), "Cascaded Diffusion
    Models for High Fidelity Image Generation", section 4.2.

    The small image z is the mean of `factor` × `factor` pixels. It gets noise,
    √(1 − s²) z + s ϵ, so that the network does not rely on each of its pixels: those of another
    model have errors. The level s, uniform in [0, max_level] in training, is one more channel.

    Args:
        factor: int >= 2, by which height and width grow.
        max_level: float in (0, 1], the largest standard deviation of the noise.

    >>> SuperResolution(2).channels((64, 64, 3))
    4
    """

    factor: int = 2
    max_level: float = 0.25

    use = "`upscale` and the command `edit` make from small images"

    def __post_init__(self):
        check_int("factor", self.factor, minimum=2)
        check_number("max_level", self.max_level, "(0, 1]")

    def channels(self, sample_shape):
        if any(side % self.factor for side in sample_shape[:2]):
            raise ValueError(
                f"image_size={tuple(sample_shape[:2])} must be divisible by factor={self.factor}."
            )
        return sample_shape[2] + 1

    def draw(self, images, seed):
        options = {"strides": self.factor, "data_format": "channels_last"}
        small = ops.average_pool(images, self.factor, **options)
        uniform = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), dtype="float32", seed=seed)
        noise = keras.random.normal(ops.shape(small), dtype="float32", seed=seed)
        return self._enlarge(ops, small, noise, self.max_level * uniform)

    def make(self, small: np.ndarray, noise: np.ndarray, level: float = 0.1) -> np.ndarray:
        """The conditions of small images with noise like them, of level s in [0, max_level]."""
        level = check_number("noise_level", level, f"[0, {self.max_level}]")
        return self._enlarge(np, small, noise, np.full((len(small), 1, 1, 1), level, "float32"))

    def _enlarge(self, ops, small, noise, level):
        noisy = ops.sqrt(1 - level**2) * small + level * noise
        levels = level * ops.ones_like(small[..., :1])
        both = ops.concatenate([noisy, levels], axis=-1)
        return ops.repeat(ops.repeat(both, self.factor, axis=1), self.factor, axis=2)


@keras.saving.register_keras_serializable("keras_ddpm")
@dataclass(frozen=True)
class Colouring(Conditioning):
    """The grey image: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).

    >>> Colouring().channels((64, 64, 3))
    1
    """

    use = "`colour` and the command `edit` make from grey images"

    def channels(self, sample_shape):
        if sample_shape[2] != 3:
            raise ValueError(f"channels={sample_shape[2]} must be 3 for Colouring.")
        return 1

    def draw(self, images, seed=None):
        return ops.sum(images * ops.convert_to_tensor(GREY, "float32"), axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("keras_ddpm")
@dataclass(frozen=True)
class Inpainting(Conditioning):
    """The image with a hole, and the mask as one more channel: 1 is a known pixel, 0 the hole.

    In training the hole is a box, whose sides are uniform in [min_share, max_share] of those of the
    image, anywhere inside it. Pixels of the hole are 0, which is grey.

    >>> Inpainting().channels((64, 64, 3))
    4
    """

    min_share: float = 0.25
    max_share: float = 0.75

    use = "`inpaint` and the command `edit --mask` make from images and a mask"

    def __post_init__(self):
        check_number("max_share", self.max_share, "(0, 1]")
        check_number("min_share", self.min_share, f"(0, {self.max_share}]")

    def channels(self, sample_shape):
        return sample_shape[2] + 1

    def draw(self, images, seed):
        def inside(size):  # for each image, which rows or columns the box has
            drawn = keras.random.uniform((2, ops.shape(images)[0], 1), dtype="float32", seed=seed)
            side = size * (self.min_share + (self.max_share - self.min_share) * drawn[0])
            first = drawn[1] * (size - side)
            middles = ops.arange(size, dtype="float32") + 0.5
            return ops.logical_and(middles >= first, middles < first + side)

        rows, columns = inside(images.shape[1]), inside(images.shape[2])
        hole = ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])
        return self._mask(ops, images, ops.cast(ops.logical_not(hole), "float32"))

    def make(self, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The conditions of images and a mask of bools `(batch, height, width, 1)`."""
        return self._mask(np, images, mask.astype("float32"))

    def _mask(self, ops, images, known):
        return ops.concatenate([images * known, known], axis=-1)


CONDITIONINGS = {
    "super_resolution": SuperResolution,
    "colouring": Colouring,
    "inpainting": Inpainting,
}
