"""Which of the T trained timesteps a sampler with fewer steps visits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.validation import check_choice, check_instance, check_int

DEFAULT_STEPS = 50


def linspace(steps, diffusion):
    """t_i = round(i · (T − 1) / (steps − 1)): both ends, Nichol & Dhariwal (2021)."""
    last = diffusion.timesteps - 1
    return np.linspace(0, last, steps) if steps > 1 else [last]


def leading(steps, diffusion):
    """t_i = i · ⌊T / steps⌋: begins at t = 0, never reaches T − 1; Song et al. (2021)."""
    return np.arange(steps) * (diffusion.timesteps // steps)


def trailing(steps, diffusion):
    """t_i = round((i + 1) · T / steps) − 1: ends at T − 1; Lin et al. (2024), table 2."""
    return np.round(np.arange(1, steps + 1) * diffusion.timesteps / steps) - 1


def quadratic(steps, diffusion):
    """t_i = round((T − 1) · (i / (steps − 1))²): dense near the image; Song et al. (2021)."""
    last = diffusion.timesteps - 1
    return np.square(np.linspace(0, np.sqrt(last), steps)) if steps > 1 else [last]


def logsnr(steps, diffusion):
    """Even steps in log(ᾱ / (1 − ᾱ)), the variable that DPM-Solver integrates over (2022).

    A last timestep without any signal comes first, and the even steps after it.
    """
    last = diffusion.timesteps - 1
    if steps == 1:
        return [last]
    silent = int(diffusion.alphas_cumprod[last] == 0)
    signal = diffusion.alphas_cumprod[: last + 1 - silent]
    snr = np.log(signal) - np.log(1 - signal)
    wanted = np.linspace(snr[-1], snr[0], steps - silent)[::-1]
    timesteps = np.interp(-wanted, -snr, np.arange(len(snr)))
    return np.append(timesteps, last) if silent else timesteps


SPACINGS = {f.__name__: f for f in (linspace, leading, trailing, quadratic, logsnr)}


def choose_timesteps(
    diffusion: GaussianDiffusion,
    steps: int | None = None,
    spacing: str = "trailing",
    timesteps: Sequence[int] | None = None,
) -> np.ndarray:
    """Exactly `steps` distinct timesteps of a diffusion, descending, int32 `(steps,)`.

    The arguments are those of `Sampler`.

    >>> choose_timesteps(GaussianDiffusion(1000), steps=4)
    array([999, 749, 499, 249], dtype=int32)
    """
    total = check_instance("diffusion", diffusion, GaussianDiffusion).timesteps
    if timesteps is not None:
        timesteps = check_timesteps(timesteps)
        if timesteps[0] >= total:
            raise ValueError(f"timesteps={list(timesteps)} must lie in [0, {total - 1}].")
        return np.array(timesteps, "int32")
    check_choice("spacing", spacing, SPACINGS)
    steps = min(DEFAULT_STEPS, total) if steps is None else check_int("steps", steps)
    if steps > total:
        raise ValueError(f"steps={steps} is more than the {total} timesteps of the diffusion.")
    if spacing == "leading" and diffusion.alphas_cumprod[-1] == 0 and steps < total:
        raise ValueError(
            "spacing='leading' never visits the last timestep, but this schedule ends without any "
            "signal (zero terminal SNR) and must start there. Use spacing='trailing'."
        )
    wanted = SPACINGS[spacing](steps, diffusion)
    # Where a dense end rounds to one timestep twice, move neighbours apart.
    wanted = np.round(wanted).astype("int64") - np.arange(steps)
    wanted = np.clip(np.maximum.accumulate(wanted), 0, total - steps) + np.arange(steps)
    return wanted[::-1].astype("int32")


def check_timesteps(timesteps) -> tuple[int, ...]:
    """Returns an explicit list of timesteps as a tuple of ints, if it descends."""
    array = np.asarray(timesteps)
    if array.ndim != 1 or array.size < 1 or array.dtype.kind not in "iu":
        raise ValueError(f"timesteps={timesteps!r} must be a list of ints.")
    found = array.tolist()
    if found[-1] < 0 or any(a <= b for a, b in zip(found, found[1:])):
        raise ValueError(f"timesteps={found} must descend from noise to image, and be at least 0.")
    return tuple(found)
