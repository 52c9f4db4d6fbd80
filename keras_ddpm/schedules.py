"""Beta schedules: how much noise each step of the forward process adds.

Everything here is float64 NumPy. A schedule is computed once, so precision is free.
"""

import warnings

import numpy as np

# Above this share of signal variance in x_T, sampling from pure noise starts off the path.
LARGEST_FINAL_SIGNAL = 0.005


def linear_betas(timesteps, beta_start=1e-4, beta_end=0.02):
    """Evenly spaced betas, as in Ho et al. (2020), section 4.

    The published end points belong to 1000 steps. Fewer steps with the same end points
    leave part of the image in `x_T`.

    Args:
        timesteps: int, the number of steps T.
        beta_start: float in (0, 1), variance of the first step.
        beta_end: float in (0, 1), variance of the last step.

    Returns:
        float64 array of shape `(timesteps,)`.

    Example:

    >>> linear_betas(1000)[[0, -1]]
    array([0.0001, 0.02  ])
    """
    return np.linspace(beta_start, beta_end, timesteps, dtype="float64")


def cosine_betas(timesteps, offset=0.008, max_beta=0.999):
    """Betas whose cumulative signal follows a squared cosine.

    Nichol & Dhariwal (2021), eq. 17. It destroys the image more slowly than the linear
    schedule, which suits small images.

    Args:
        timesteps: int, the number of steps T.
        offset: float, the paper's s: keeps the first betas from vanishing.
        max_beta: float, clips the last betas, where the cosine reaches zero.

    Returns:
        float64 array of shape `(timesteps,)`.
    """
    steps = np.arange(timesteps + 1, dtype="float64") / timesteps
    # ᾱ(t) = f(t) / f(0),  f(t) = cos²( (t/T + s) / (1 + s) · π/2 )
    signal = np.cos((steps + offset) / (1 + offset) * np.pi / 2) ** 2
    # β_t = 1 − ᾱ_t / ᾱ_{t−1}
    return np.minimum(1 - signal[1:] / signal[:-1], max_beta)


def without_terminal_signal(betas):
    """Rescales betas so that nothing of the image is left at the last step.

    Lin et al. (2024), algorithm 1: √ᾱ is shifted until its last entry is 0, then stretched until
    its first entry is as before. The last beta becomes 1.

    Args:
        betas: float64 array `(timesteps,)`, at least two.

    Returns:
        float64 array of the same shape.

    Raises:
        ValueError: for a single step: its first entry is its last.
    """
    if len(betas) < 2:
        raise ValueError("zero_terminal_snr=True needs timesteps of at least 2, got 1.")
    rate = np.sqrt(np.cumprod(1 - betas))  # √ᾱ_t
    rate = (rate - rate[-1]) * rate[0] / (rate[0] - rate[-1])
    signal = rate**2
    return 1 - signal / np.append(1.0, signal[:-1])  # β_t = 1 − ᾱ_t / ᾱ_{t−1}


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


def check_betas(betas):
    """Refuses betas that are no variances."""
    if betas.ndim != 1 or betas.size < 1:
        raise ValueError(f"betas must be a 1-D sequence of floats, got shape {betas.shape}.")
    wrong = ~((betas > 0) & (betas < 1))  # catches NaN too
    wrong[-1] = not 0 < betas[-1] <= 1
    if wrong.any():
        step = int(np.argmax(wrong))
        raise ValueError(
            f"betas[{step}] = {betas[step]} is not allowed: each beta must lie in (0, 1), only "
            "the last may be 1."
        )


def warn_if_signal_remains(alphas_cumprod):
    """Warns of a schedule that stops before the image is gone: sampling would start elsewhere."""
    remaining, timesteps = alphas_cumprod[-1], len(alphas_cumprod)
    if remaining > LARGEST_FINAL_SIGNAL:
        scale = 1000 / timesteps
        warnings.warn(
            f"This schedule keeps {remaining:.2g} of the signal's variance at its last step "
            f"(timesteps={timesteps}), but sampling starts from pure noise. Use "
            "schedule='cosine', or timesteps=1000, or a linear schedule with betas scaled to "
            f"the number of steps: beta_start={1e-4 * scale:.2g}, "
            f"beta_end={min(0.02 * scale, 0.999):.3g}.",
            stacklevel=3,
        )
