"""Between two images, or between two draws of noise."""

import numpy as np

from keras_ddpm.editing import check_images, denoise, diffuse, last_steps
from keras_ddpm.samplers import make_sampler
from keras_ddpm.samplers.seeds import choose_seed
from keras_ddpm.validation import check_choice, check_share


def interpolate(
    model,
    first,
    second,
    shares=(0, 0.25, 0.5, 0.75, 1),
    strength=0.5,
    mix="spherical",
    sampler="ddim",
    steps=None,
    timesteps=None,
    spacing=None,
    eta=0.0,
    seed=None,
    **options,
):
    """Images between two others: diffuses both, mixes them, and denoises the mix.

    Ho et al. (2020), figure 8. Each pair gets one draw of noise, the same for first and second
    image and for all shares: then the mix holds that noise at the level that the network expects
    (exactly so for the linear mix), and nothing but the share changes along a row.

    Args:
        model: a `DiffusionModel`.
        first: `(batch, height, width, channels)`, uint8 or float in [-1, 1].
        second: as `first`.
        shares: floats in [0, 1], how much of `second` is in the mix.
        strength: float in [0, 1], see `image_to_image`. At 0 the images themselves are mixed.
        mix: `"linear"` or `"spherical"`.
        sampler, steps, timesteps, spacing, eta, seed: as for `DiffusionModel.generate`.
        **options: labels, one a pair, guidance_scale, clip_denoised, batch_size and progress,
            likewise.

    Returns:
        float32 NumPy array `(len(shares), batch, height, width, channels)`. At share 0 it is what
        `image_to_image` makes of `first` with the same arguments, at share 1 of `second`.

    Raises:
        ValueError, TypeError: as `image_to_image`, and for images of different shapes, shares
            outside [0, 1] or an unknown mix.

    Example:

    ```python
    rows = interpolate(model, roses, tulips, strength=0.6, seed=0)
    save_image("between.png", image_grid(np.concatenate(rows), columns=len(roses)))
    ```
    """
    first = check_images("first", first, model)
    second = check_images("second", second, model)
    _check_pair(first, second)
    shares = [check_share("shares", share) for share in np.atleast_1d(shares).tolist()]
    if not shares:
        raise ValueError("shares=() asks for no image: give at least one share in [0, 1].")
    check_choice("mix", mix, MIXES)
    sampler = make_sampler(sampler, eta)
    plan = last_steps(model, strength, sampler, steps, timesteps, spacing)
    seed = choose_seed(seed)
    first, second = (diffuse(model, images, plan, seed) for images in (first, second))
    mixes = [MIXES[mix](first, second, share) for share in shares]
    options |= {"sampler": sampler, "seed": seed}
    return np.stack([denoise(model, x_t, plan, **options) for x_t in mixes])


def mix_linear(first, second, share):
    """(1 − share) first + share second.

    Two independent draws of noise give a mix of smaller variance, a half in the middle: for
    noise use `mix_spherical`.

    Args:
        first: float array `(batch, ...)`.
        second: float array like `first`.
        share: float in [0, 1], how much of `second`; 0 and 1 return an end exactly.

    Returns:
        float32 NumPy array like `first`.

    Raises:
        ValueError: for arrays of different shapes, or a share outside [0, 1].

    Example:

    >>> mix_linear(np.zeros((1, 2)), np.ones((1, 2)), 0.25)
    array([[0.25, 0.25]], dtype=float32)
    """
    share = check_share("share", share)
    first, second = _check_pair(first, second)
    return _weighted(first, second, 1 - share, share)


def mix_spherical(first, second, share):
    """sin((1 − share) θ)/sin θ first + sin(share θ)/sin θ second, θ the angle between the two.

    Shoemake (1985), "Animating Rotation with Quaternion Curves"; for noise Song et al. (2021),
    section 5.3. The length stays that of the ends, as it must for noise: in many dimensions
    nearly all draws of noise have the same length. Each image of the batch has an angle of its
    own. Where there is no arc, because they point the same or opposite ways, the mix is linear.

    Args:
        first: float array `(batch, ...)`.
        second: float array like `first`.
        share: float in [0, 1], how much of `second`; 0 and 1 return an end exactly.

    Returns:
        float32 NumPy array like `first`.

    Raises:
        ValueError: for arrays of different shapes, or a share outside [0, 1].

    Example:

    ```python
    a, b = np.random.default_rng(0).standard_normal((2, 8, 64, 64, 3))
    between = [model.generate(noise=mix_spherical(a, b, share)) for share in (0, 0.5, 1)]
    ```
    """
    share = check_share("share", share)
    first, second = _check_pair(first, second)
    axes = tuple(range(1, first.ndim))
    dot, length_first, length_second = (
        np.sum(np.multiply(a, b, dtype="float64"), axis=axes, keepdims=True)
        for a, b in ((first, second), (first, first), (second, second))
    )
    lengths = np.sqrt(length_first * length_second)
    cosine = dot / np.where(lengths > 0, lengths, 1)
    angle = np.arccos(np.clip(cosine, -1, 1))
    has_arc = np.sin(angle) > 1e-6
    sine = np.where(has_arc, np.sin(angle), 1)
    weight_first = np.where(has_arc, np.sin((1 - share) * angle) / sine, 1 - share)
    weight_second = np.where(has_arc, np.sin(share * angle) / sine, share)
    return _weighted(first, second, weight_first, weight_second)


MIXES = {"linear": mix_linear, "spherical": mix_spherical}


def _check_pair(first, second):
    """Both as arrays, if they have one shape."""
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape:
        raise ValueError(
            f"first has shape {first.shape} and second {second.shape}, but each of the first is "
            "mixed with one of the second: give equally many, of one size."
        )
    return first, second


def _weighted(first, second, weight_first, weight_second):
    return (weight_first * first + weight_second * second).astype("float32")
