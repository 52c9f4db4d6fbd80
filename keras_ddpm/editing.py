"""Working on images instead of drawing new ones: varying, inverting, filling in.

No model is trained for these: all use a `DiffusionModel` as it is. Images go in as uint8 or as
floats in [-1, 1], and come out as float32. Labels, guidance and seeds mean what they mean for
`DiffusionModel.generate`.
"""

import functools

import numpy as np
from keras import ops

from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.faults import PIXEL_TOLERANCE
from keras_ddpm.samplers import make_sampler, plan_timesteps
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.repaint import RePaint, repaint_visits
from keras_ddpm.samplers.seeds import choose_seed, initial_noise
from keras_ddpm.validation import check_positive_int, check_share


def image_to_image(
    model,
    images,
    strength=0.5,
    sampler="ddim",
    steps=None,
    timesteps=None,
    spacing=None,
    eta=0.0,
    seed=None,
    **options,
):
    """Variations of images: diffuses them part of the way, and denoises from there.

    SDEdit (Meng et al. 2022): noise hides the details of an image before its outlines, and the
    network paints anew what it hides, as the labels say.

    Args:
        model: a `DiffusionModel`.
        images: `(batch, height, width, channels)`, uint8 or float in [-1, 1].
        strength: float in [0, 1], the share of the sampler's steps to take, the last ones,
            rounded to whole steps. 0 returns the images, 1 starts at the first timestep.
        sampler, steps, timesteps, spacing, eta, seed: as for `DiffusionModel.generate`.
        **options: labels, guidance_scale, clip_denoised, batch_size and progress, likewise.

    Returns:
        float32 NumPy array like `images`, in [-1, 1].

    Raises:
        ValueError, TypeError: for images that are none, or not of the model's shape, a strength
            outside [0, 1], and as `generate` does.

    Example:

    ```python
    roses = image_to_image(model, tulips, strength=0.6, labels="rose", guidance_scale=3.0, seed=0)
    ```
    """
    images = check_images("images", images, model)
    sampler = make_sampler(sampler, eta)
    plan = last_steps(model, strength, sampler, steps, timesteps, spacing)
    x_t = diffuse(model, images, plan, seed)
    return denoise(model, x_t, plan, sampler=sampler, seed=seed, **options)


def invert(
    model,
    images,
    labels=None,
    guidance_scale=1.0,
    steps=None,
    timesteps=None,
    spacing=None,
    evaluations=3,
    batch_size=64,
    progress=False,
):
    """The noise from which DDIM at eta 0 makes these images: see `DDIMInversion`.

    Sampling must not clip x̂₀ to come back to the images. If the network predicts noise, that
    takes a schedule that leaves some signal (`"linear"`), or `timesteps` that begin lower: where
    hardly any is left, as at the end of `"cosine"`, the network's errors swamp x̂₀.

    Args:
        model: a `DiffusionModel`.
        images: `(batch, height, width, channels)`, uint8 or float in [-1, 1].
        labels, guidance_scale, steps, timesteps, spacing, batch_size, progress: as for
            `DiffusionModel.generate`, which must then be given the same ones.
        evaluations: int >= 1, network calls a step: the more, the closer the reconstruction.

    Returns:
        float32 NumPy array like `images`: x at the first timestep of that sampling.

    Raises:
        ValueError, TypeError: as `image_to_image`, and for evaluations below 1.

    Example:

    ```python
    noise = invert(model, images, labels="rose", steps=50)
    again = model.generate(noise=noise, labels="rose", steps=50, clip_denoised=False)
    other = model.generate(noise=noise, labels="tulip", steps=50)  # much the same composition

    a, b = invert(model, roses), invert(model, tulips)
    middle = model.generate(noise=mix_spherical(a, b, 0.5))
    ```
    """
    images = check_images("images", images, model)
    plan = plan_timesteps(model.diffusion, make_sampler("ddim"), steps, timesteps, spacing)
    return model.sampling_loop.in_batches(
        images,
        _inversion(evaluations),
        plan[::-1],
        seed=0,  # DDIM inversion draws no noise
        conditions=model.sampling_conditions(labels, guidance_scale, len(images)),
        batch_size=check_positive_int("batch_size", batch_size),
        progress=progress,
    )


def inpaint(
    model,
    images,
    mask,
    labels=None,
    guidance_scale=1.0,
    steps=None,
    timesteps=None,
    spacing=None,
    resampling=5,
    jump=5,
    clip_denoised=None,
    seed=None,
    batch_size=64,
    progress=False,
):
    """Fills in parts of images so that they match the rest: see `RePaint`.

    Args:
        model: a `DiffusionModel`.
        images: `(batch, height, width, channels)`, uint8 or float in [-1, 1]. What they hold
            where the mask is 0 has no influence, but must be in that range.
        mask: bools or numbers, `(height, width)`, `(height, width, 1)` or
            `(batch, height, width, 1)`: 1 keeps a pixel, 0 has it painted.
        labels, guidance_scale, steps, timesteps, spacing, clip_denoised, seed, batch_size,
            progress: as for `DiffusionModel.generate`.
        resampling: int >= 1, how often each step is taken, "r" in the paper. The network is
            called `steps * resampling` times; the seam fades with both.
        jump: int >= 1, after how many steps it goes back up, "j" in the paper.

    Returns:
        float32 NumPy array like `images`, in [-1, 1]; the kept pixels bit for bit.

    Raises:
        ValueError, TypeError: as `image_to_image`, and for a mask that is none.

    Example:

    ```python
    mask = np.ones((64, 64), bool)
    mask[:, 32:] = False  # paint the right half anew
    images = inpaint(model, images, mask, labels="rose", resampling=10, seed=0)
    ```
    """
    images = check_images("images", images, model)
    mask = _check_mask(mask, images)
    resampling = check_positive_int("resampling", resampling)
    jump = check_positive_int("jump", jump)
    plan = plan_timesteps(model.diffusion, make_sampler("ddpm"), steps, timesteps, spacing)
    clip_denoised = model.is_image if clip_denoised is None else clip_denoised
    seed = choose_seed(seed)
    return model.sampling_loop.in_batches(
        initial_noise(seed, images.shape),
        _REPAINT,
        repaint_visits(plan, resampling, jump),
        seed,
        check_clip_denoised(clip_denoised),
        model.sampling_conditions(labels, guidance_scale, len(images)),
        given=(images, mask),
        batch_size=check_positive_int("batch_size", batch_size),
        progress=progress,
    )


# One sampler object for the same options: programs are compiled for each object.
_REPAINT = RePaint()
_inversion = functools.lru_cache(DDIMInversion)


def last_steps(model, strength, sampler, steps, timesteps, spacing):
    """The last `strength` of the plan's steps; none at 0."""
    strength = check_share("strength", strength)
    plan = plan_timesteps(model.diffusion, sampler, steps, timesteps, spacing)
    return plan[len(plan) - round(strength * len(plan)) :]


def diffuse(model, images, plan, seed):
    """x at the first timestep of the plan, with the noise that `generate` starts from."""
    if not len(plan):
        return images
    t = np.full(len(images), plan[0], "int32")
    noise = initial_noise(seed, images.shape)
    return ops.convert_to_numpy(model.diffusion.q_sample(images, t, noise))


def denoise(model, x_t, plan, **options):
    """Samples from `x_t`, the state at the first timestep of the plan."""
    return model.generate(noise=x_t, timesteps=plan, **options) if len(plan) else x_t


def check_images(argument, images, model):
    """Images as float32 in [-1, 1], `(batch, ...)` of the model's shape."""
    images = np.asarray(images)
    if images.shape[1:] != model.sample_shape or len(images) == 0:
        raise ValueError(
            f"{argument} has shape {images.shape}, but must be (batch, "
            f"{', '.join(map(str, model.sample_shape))}) for this model, batch at least 1. A "
            "single image is `image[None]`."
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"{argument} has dtype {images.dtype}; give uint8, or float in [-1, 1].")
    if images.dtype == np.uint8:
        images = images / np.float32(127.5) - 1
    images = images.astype("float32")
    limit = 1 + PIXEL_TOLERANCE if model.is_image else np.finfo("float32").max
    if not (np.abs(images) <= limit).all():  # catches NaN too
        raise ValueError(
            f"{argument} holds values from {images.min():.4g} to {images.max():.4g} or NaN, but "
            "must be uint8, or float in [-1, 1]. For floats in [0, 255] use "
            "`x.astype('uint8')`, for floats in [0, 1] use `2 * x - 1`."
        )
    return images


def _check_mask(mask, images):
    """A mask as bools `(batch, height, width, 1)`."""
    mask = np.asarray(mask)
    batch, *space, _ = images.shape
    if mask.shape not in (tuple(space), (*space, 1), (batch, *space, 1)):
        raise ValueError(
            f"mask has shape {mask.shape}, but must be {tuple(space)}, {(*space, 1)} or "
            f"{(batch, *space, 1)} for images of shape {images.shape}."
        )
    if mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"mask holds {np.unique(mask)[:5]}, but must be 1 where a pixel is kept and 0 where "
            "it is painted. For a mask in [0, 255] use `mask > 127`."
        )
    if mask.ndim == len(space):
        mask = mask[..., None]
    return np.broadcast_to(mask.astype(bool), (batch, *space, 1))
