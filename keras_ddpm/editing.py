"""Edits of images with a trained model: variation, inversion and interpolation.

Nothing is trained for them. Images are `(batch, height, width, channels)`, uint8 or float in
[-1, 1]; or the path of a photograph, a Pillow image, or a list of these, which are cropped
centrally and resized to the images of the model. The results are float32 arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from keras_ddpm.data.folder import read_photographs
from keras_ddpm.model import DiffusionModel
from keras_ddpm.pixels import to_float
from keras_ddpm.samplers import Sampler, get_sampler
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.noise import choose_seed, initial_noise
from keras_ddpm.types import ArrayLike, Photographs
from keras_ddpm.validation import (
    check_array,
    check_choice,
    check_images,
    check_instance,
    check_number,
)

# The options of `generate` that are not options of a sampler; the first four say what to draw.
ASKED = ("labels", "guidance_scale", "clip_denoised", "condition")
GENERATING = (*ASKED, "batch_size", "progress")


def image_to_image(
    model: DiffusionModel,
    images: Photographs,
    strength: float = 0.5,
    sampler: str | Sampler = "ddim",
    seed: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Variations of images: adds noise up to some timestep, and denoises from there.

    SDEdit (Meng et al. 2022): noise hides the details of an image before its outlines, and the
    model draws anew what is hidden, according to the labels.

    Args:
        model: a `DiffusionModel`.
        images: `(batch, height, width, channels)`, uint8 or float in [-1, 1]; or paths or Pillow
            images, one or a list.
        strength: float in [0, 1], the share of the sampler's steps to take, the last ones, rounded
            to whole steps. 0 returns the images, 1 starts at the first timestep.
        sampler, seed, **options: as for `DiffusionModel.generate`.

    Returns:
        float32 NumPy array like `images`, in [-1, 1].

    ```python
    images = model.generate(4, labels=0, seed=0)
    others = image_to_image(model, images, strength=0.6, labels=5, guidance_scale=3.0, seed=0)
    ```
    """
    images, seed = check_batch(model, "images", images), choose_seed(seed)
    (x_t,), options = add_noise(model, [images], strength, sampler, seed, options)
    return denoise(model, x_t, seed, **options)


def invert(
    model: DiffusionModel,
    images: Photographs,
    steps: int | None = None,
    spacing: str = "trailing",
    timesteps: Sequence[int] | None = None,
    evaluations: int = 3,
    **options: Any,
) -> np.ndarray:
    """The noise from which DDIM at eta 0 makes these images: see `DDIMInversion`.

    To get the images back, sample without clipping x̂₀. A network that predicts noise needs a
    schedule that keeps some signal (`"linear"`), or `timesteps` that begin lower: where hardly any
    signal is left, as at the end of `"cosine"`, its errors dominate x̂₀.

    Args:
        model: a `DiffusionModel`.
        images: as for `image_to_image`.
        steps, spacing, timesteps: of the DDIM that is inverted.
        evaluations: int >= 1, network evaluations a step. More are closer to the exact inverse.
        **options: as for `DiffusionModel.generate`, such as labels, which must get the same ones.

    Returns:
        float32 NumPy array like `images`: x_T.

    ```python
    images = model.generate(4, labels=0, seed=0)
    noise = invert(model, images, labels=0, steps=20)
    again = model.generate(noise=noise, labels=0, steps=20, clip_denoised=False)
    other = model.generate(noise=noise, labels=1, steps=20)  # much the same composition
    ```
    """
    images = check_batch(model, "images", images)
    sampler = DDIMInversion(steps, spacing, timesteps, evaluations)
    options = {"clip_denoised": False, "seed": 0, **options}  # no noise is drawn
    return model.generate(noise=images, sampler=sampler, **options)


def interpolate(
    model: DiffusionModel,
    first: Photographs,
    second: Photographs,
    shares: float | Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    strength: float = 0.5,
    mix: str = "slerp",
    sampler: str | Sampler = "ddim",
    seed: int | None = None,
    **options: Any,
) -> np.ndarray:
    """Images between two others: adds noise to both, mixes them, and denoises the mix.

    Ho et al. (2020), figure 8. Each pair gets one draw of noise, the same for both images and for
    all shares. So only the share changes along a row, and the mix holds the noise that the network
    expects (exactly with lerp).

    Args:
        model: a `DiffusionModel`.
        first, second: each as the images of `image_to_image`.
        shares: floats in [0, 1], how much of `second` is in the mix.
        strength: float in [0, 1], see `image_to_image`. At 0 the images themselves are mixed.
        mix: `"lerp"` or `"slerp"`.
        sampler, seed, **options: as for `DiffusionModel.generate`.

    Returns:
        float32 NumPy array `(len(shares), batch, height, width, channels)`. At share 0 it is what
        `image_to_image` makes of `first` with the same arguments, at share 1 of `second`.

    ```python
    first, second = model.generate(4, seed=0), model.generate(4, seed=1)
    rows = interpolate(model, first, second, strength=0.6, seed=0)
    save_image("between.png", image_grid(np.concatenate(rows), columns=4))
    ```
    """
    mixed = {"lerp": lerp, "slerp": slerp}[check_choice("mix", mix, ("lerp", "slerp"))]
    shares = [check_number("shares", share, "[0, 1]") for share in np.atleast_1d(shares).tolist()]
    if not shares:
        raise ValueError("shares=() asks for no image: give at least one share in [0, 1].")
    pair = _check_pair(check_batch(model, "first", first), check_batch(model, "second", second))
    seed = choose_seed(seed)
    (a, b), options = add_noise(model, pair, strength, sampler, seed, options)
    return np.stack([denoise(model, mixed(a, b, share), seed, **options) for share in shares])


def lerp(first: ArrayLike, second: ArrayLike, share: float) -> np.ndarray:
    """Linear interpolation: (1 − share) first + share second.

    Of two independent draws of noise it has a smaller variance, a half in the middle: use `slerp`
    for noise.

    `first` and `second` are float arrays `(batch, ...)`; `share` is a float in [0, 1], and 0 and 1
    return an end exactly. Returns a float32 NumPy array.

    >>> lerp(np.zeros((1, 2)), np.ones((1, 2)), 0.25)
    array([[0.25, 0.25]], dtype=float32)
    """
    share = check_number("share", share, "[0, 1]")
    first, second = _check_pair(first, second)
    return ((1 - share) * first + share * second).astype("float32")


def slerp(first: ArrayLike, second: ArrayLike, share: float) -> np.ndarray:
    """Spherical interpolation: sin((1 − share) θ)/sin θ first + sin(share θ)/sin θ second.

    θ is the angle between the two, for each sample of the batch: Shoemake (1985), "Animating
    Rotation with Quaternion Curves"; for noise Song et al. (2021), section 5.3. The result is as
    long as the ends. Samples of the same or of opposite directions are interpolated linearly.
    Arguments and result are those of `lerp`.

    >>> slerp(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 0.5).round(4)
    array([[0.7071, 0.7071]], dtype=float32)
    """
    share = check_number("share", share, "[0, 1]")
    first, second = _check_pair(first, second)
    axes = tuple(range(1, first.ndim))

    def dot(a, b):
        return np.sum(np.multiply(a, b, dtype="float64"), axis=axes, keepdims=True)

    lengths = np.sqrt(dot(first, first) * dot(second, second))
    cosine = dot(first, second) / np.where(lengths > 0, lengths, 1)
    angle = np.arccos(np.clip(cosine, -1, 1))
    has_arc = np.sin(angle) > 1e-6
    sine = np.where(has_arc, np.sin(angle), 1)
    weight_first = np.where(has_arc, np.sin((1 - share) * angle) / sine, 1 - share)
    weight_second = np.where(has_arc, np.sin(share * angle) / sine, share)
    return (weight_first * first + weight_second * second).astype("float32")


def add_noise(model, batches, strength, sampler, seed, options):
    """Batches of images with noise up to the first of the last `strength` of the sampler's steps.

    Returns a list of x_t, and the options with which `denoise` goes on from there.
    """
    generating = {name: options.pop(name) for name in GENERATING if name in options}
    sampler = get_sampler(sampler, **options)
    plan = sampler.plan(model.diffusion)
    plan = plan[len(plan) - round(check_number("strength", strength, "[0, 1]") * len(plan)) :]
    asked = {name: generating[name] for name in ASKED if name in generating}
    model.check_request(None, asked.pop("labels", None), noise=batches[0], sampler=sampler, **asked)
    if not len(plan):
        return batches, {"sampler": None}
    noise, t = initial_noise(seed, batches[0].shape), np.full(len(batches[0]), plan[0], "int32")
    batches = [model.diffusion.q_sample(images, t, noise) for images in batches]
    sampler = replace(sampler, timesteps=tuple(plan.tolist()))
    return [ops.convert_to_numpy(x_t) for x_t in batches], {"sampler": sampler, **generating}


def denoise(model, x_t, seed, sampler, **options):
    """Samples from x_t; without a sampler it is clean already."""
    if sampler is None:
        return x_t
    return model.generate(noise=x_t, seed=seed, sampler=sampler, **options)


def check_batch(model, argument, images, shape=None) -> np.ndarray:
    """Images for a model as floats; `shape` is that of one, by default a sample's."""
    check_instance("model", model, DiffusionModel)
    shape = model.sample_shape if shape is None else shape
    if model.is_image:
        images = read_photographs(argument, images, shape[:2], shape[2])
    return to_float(check_images(argument, images, shape))


def _check_pair(first, second) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, if they have one shape."""
    first = check_array("first", first, (None, ...))
    second = check_array("second", second, (None, ...))
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape}, but second {second.shape}.")
    return first, second
