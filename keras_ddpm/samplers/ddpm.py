"""Ancestral sampling: Ho et al. (2020), algorithm 2, along any subset of timesteps."""

import numpy as np

from keras_ddpm.samplers.base import Sampler, signal_levels


class DDPM(Sampler):
    """Draws x_s from the posterior q(x_s | x_t, x̂₀) for each pair of neighbours t > s.

    Skipping timesteps makes a step larger: its β is that of Nichol & Dhariwal (2021), eq. 19,
    and the posterior's formulas then hold as they are.
    """

    is_stochastic = True

    def coefficients(self, diffusion, timesteps):
        start, x_t, variance = posterior(diffusion, *signal_levels(diffusion, timesteps))
        return {"start": start, "x_t": x_t, "noise": np.sqrt(variance)}

    def step(self, denoise, x_t, c, now):
        x_start, _ = denoise(x_t, now.t)
        return c["start"] * x_start + c["x_t"] * x_t + c["noise"] * now.noise, x_start


def posterior(diffusion, signal, next_signal):
    """p(x_s | x_t, x̂₀) for steps from ᾱ_t to ᾱ_s > ᾱ_t: Ho et al., eq. 7.

    Args:
        diffusion: a `GaussianDiffusion`.
        signal: float64 array `(steps,)`, ᾱ_t.
        next_signal: float64 array `(steps,)`, ᾱ_s; 1 is the clean image.

    Returns:
        The factors of x̂₀ and of x_t in the mean, and the variance, float64 `(steps,)` each.
    """
    beta = 1 - signal / next_signal  # Nichol & Dhariwal, eq. 19: the step's own β
    # ᾱ_s takes the place of ᾱ_{t−1}.
    start = beta * np.sqrt(next_signal) / (1 - signal)
    x_t = (1 - next_signal) * np.sqrt(1 - beta) / (1 - signal)
    variance = beta
    if diffusion.variance == "posterior":
        variance = beta * (1 - next_signal) / (1 - signal)
    return start, x_t, np.where(next_signal == 1, 0.0, variance)  # the image gets no noise
