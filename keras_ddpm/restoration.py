"""What fits a given image: filling in its parts, enlarging it, colouring it.

Images are `(batch, height, width, channels)`, uint8 or float in [-1, 1]; or the path of a
photograph, a Pillow image, or a list of these, which are cropped centrally and resized. The results
are float32 arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_ddpm.conditions import Colouring, Inpainting, SuperResolution
from keras_ddpm.data.folder import read_photographs
from keras_ddpm.editing import check_batch
from keras_ddpm.model import DiffusionModel
from keras_ddpm.samplers.noise import choose_seed
from keras_ddpm.samplers.repaint import RePaint
from keras_ddpm.types import Photographs
from keras_ddpm.validation import check_instance, to_array


def upscale(
    model: DiffusionModel,
    images: Photographs,
    noise_level: float = 0.1,
    seed: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Enlarges images with a model that was trained for it, with `SuperResolution`.

    Args:
        model: a `DiffusionModel` with `conditioning=SuperResolution(factor)`.
        images: small ones, `factor` times smaller than the model's in height and width.
        noise_level: float in [0, max_level], the standard deviation of the noise that is added to
            them. More of it hides more of their errors, and of their details.
        seed, **options: as for `DiffusionModel.generate`.

    Returns:
        float32 NumPy array `(batch, factor * height, factor * width, channels)`, in [-1, 1].

    ```python
    upscaler = DiffusionModel.from_preset("flowers_64_upscaler")
    small = DiffusionModel.from_preset("flowers_32").generate(4, labels="sunflower", seed=0)
    large = upscale(upscaler, small, seed=0)
    ```
    """
    small, seed = check_batch(model, "images", images, small_shape(model)), choose_seed(seed)
    # Not the numbers of x_T, which have the same seed.
    noise = np.random.default_rng([seed, 2]).standard_normal(small.shape, dtype="float32")
    condition = _conditioning(model, SuperResolution).make(small, noise, noise_level)
    return model.generate(condition=condition, seed=seed, **options)


def small_shape(model) -> tuple[int, int, int]:
    """The shape of the images that `upscale` takes."""
    factor = _conditioning(model, SuperResolution).factor
    height, width, channels = model.sample_shape
    return height // factor, width // factor, channels


def colour(model: DiffusionModel, images: Photographs, **options: Any) -> np.ndarray:
    """Colours grey images with a model that was trained for it, with `Colouring`.

    Args:
        model: a `DiffusionModel` with `conditioning=Colouring()`.
        images: of the model's size, with one channel, or with three, whose grey values are taken.
        **options: as for `DiffusionModel.generate`.

    Returns:
        float32 NumPy array `(batch, height, width, 3)`, in [-1, 1].
    """
    conditioning = _conditioning(model, Colouring)
    photographs = read_photographs("images", images, model.sample_shape[:2], 3)
    is_colour = np.shape(photographs)[-1:] == (3,)
    shape = (*model.sample_shape[:2], 3 if is_colour else 1)
    grey = check_batch(model, "images", photographs, shape)
    if is_colour:
        grey = ops.convert_to_numpy(conditioning.draw(ops.convert_to_tensor(grey)))
    return model.generate(condition=grey, **options)


def inpaint(
    model: DiffusionModel,
    images: Photographs,
    mask: Photographs,
    steps: int | None = None,
    spacing: str = "trailing",
    timesteps: Sequence[int] | None = None,
    resample_steps: int = 5,
    jump_length: int = 5,
    **options: Any,
) -> np.ndarray:
    """Fills in parts of images so that they match the rest.

    A model that was trained for it, with `Inpainting`, draws the parts in one run. With any other
    model it is done by `RePaint`.

    Args:
        model: a `DiffusionModel`.
        images: as for `image_to_image`. Pixels where the mask is 0 have no influence.
        mask: bools or numbers, `(height, width)`, `(height, width, 1)` or
            `(batch, height, width, 1)`: 1 keeps a pixel, 0 fills it in; or the path of a picture,
            or a Pillow image, whose brighter half keeps pixels.
        steps, spacing, timesteps: of the sampler.
        resample_steps, jump_length: of `RePaint` alone. The network is evaluated
            `steps * resample_steps` times; more of both hide the border.
        **options: as for `DiffusionModel.generate`.

    Returns:
        float32 NumPy array like `images`, in [-1, 1], with the kept pixels bit for bit.

    ```python
    images = model.generate(4, labels=0, seed=0)
    mask = np.ones(images.shape[1:3], bool)
    mask[:, mask.shape[1] // 2 :] = False  # fill in the right half
    images = inpaint(model, images, mask, labels=0, steps=20, resample_steps=2, seed=0)
    ```
    """
    known = check_batch(model, "images", images)
    keeps = _check_mask(mask, known)
    if isinstance(model.conditioning, Inpainting):
        options |= {"steps": steps, "spacing": spacing, "timesteps": timesteps}
        filled = model.generate(condition=model.conditioning.make(known, keeps), **options)
        return np.where(keeps, known, filled)
    sampler = RePaint(steps, spacing, timesteps, resample_steps, jump_length)
    given = (known, keeps)
    return model.generate(len(known), sampler=sampler, given=given, **options)


def _conditioning(model, kind) -> Any:
    """What the model's conditions are made with, if that is of a kind."""
    check_instance("model", model, DiffusionModel)
    if not isinstance(model.conditioning, kind):
        raise ValueError(
            f"model={model.name!r} has conditioning={model.conditioning!r}, but must have been "
            f"trained with a {kind.__name__}."
        )
    return model.conditioning


def _check_mask(mask, images):
    """A mask as bools `(batch, height, width, 1)`."""
    batch, *space, _ = images.shape
    photographs = read_photographs("mask", mask, space, 1)
    mask = to_array("mask", mask) if photographs is mask else photographs[0] > 127
    if mask.shape not in (tuple(space), (*space, 1), (batch, *space, 1)):
        raise ValueError(
            f"mask has shape {mask.shape}, but must be {tuple(space)}, {(*space, 1)} or "
            f"{(batch, *space, 1)} for images of shape {images.shape}."
        )
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"mask holds {np.unique(mask)[:5]}, but must be 1 where a pixel is kept and 0 where "
            "it is filled in. For a mask in [0, 255] use `mask > 127`."
        )
    if mask.ndim == len(space):
        mask = mask[..., None]
    return np.broadcast_to(mask.astype(bool), (batch, *space, 1))
