"""Which of the T trained timesteps a sampler with fewer steps visits."""

import numpy as np

from keras_ddpm.validation import check_choice, check_positive_int


def linspace(steps, diffusion):
    """t_i = round(i · (T − 1) / (steps − 1)): both ends, Nichol & Dhariwal (2021)."""
    return (
        np.linspace(0, diffusion.timesteps - 1, steps) if steps > 1 else [diffusion.timesteps - 1]
    )


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

    Where the last timestep has no signal at all, it comes first and the even steps after it.
    """
    last = diffusion.timesteps - 1
    if steps == 1:
        return [last]  # one step alone starts from the noise
    silent = int(diffusion.alphas_cumprod[last] == 0)
    signal = diffusion.alphas_cumprod[: last + 1 - silent]
    snr = np.log(signal) - np.log(1 - signal)
    wanted = np.linspace(snr[-1], snr[0], steps - silent)[::-1]
    timesteps = np.interp(-wanted, -snr, np.arange(len(snr)))
    return np.append(timesteps, last) if silent else timesteps


SPACINGS = {f.__name__: f for f in (linspace, leading, trailing, quadratic, logsnr)}


def choose_timesteps(diffusion, steps=None, spacing="linspace"):
    """Exactly `steps` distinct timesteps, descending.

    Args:
        diffusion: a `GaussianDiffusion`.
        steps: optional int in [1, diffusion.timesteps]; None means at most 50.
        spacing: `"linspace"`, `"leading"`, `"trailing"`, `"quadratic"` or `"logsnr"`.

    Returns:
        int32 array of shape `(steps,)`.

    Raises:
        ValueError: if there are not that many timesteps, the spacing is unknown, or it never
            visits the last timestep of a schedule that leaves no signal there.
    """
    total = diffusion.timesteps
    steps = check_positive_int("steps", min(50, total) if steps is None else steps)
    if steps > total:
        raise ValueError(f"steps={steps} is more than the {total} timesteps of the diffusion.")
    check_choice("spacing", spacing, SPACINGS)
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


def check_timesteps(timesteps, diffusion):
    """An explicit list of timesteps as an int32 array, if it can be sampled along."""
    array = np.asarray(timesteps)
    if array.ndim != 1 or array.size < 1 or array.dtype.kind not in "iu":
        raise ValueError(f"timesteps must be a list of ints, got {timesteps!r}.")
    if array.min() < 0 or array.max() >= diffusion.timesteps:
        raise ValueError(
            f"timesteps={timesteps!r} must lie in [0, {diffusion.timesteps - 1}]: they are 0-based."
        )
    if (np.diff(array.astype("int64")) >= 0).any():
        raise ValueError(f"timesteps={timesteps!r} must descend, from noise to image.")
    return array.astype("int32")
