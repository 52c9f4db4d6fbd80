"""Ancestral sampling: Ho et al. (2020), algorithm 2, along any subset of timesteps.

x̂₀ = the network's prediction from x_t
β = 1 − ᾱ_t/ᾱ_s                                       Nichol & Dhariwal (2021), eq. 19
μ̃ = √ᾱ_s β/(1 − ᾱ_t) x̂₀ + √(1 − β) (1 − ᾱ_s)/(1 − ᾱ_t) x_t          eq. 7
x_s = μ̃ + σ z,  σ² = β (1 − ᾱ_s)/(1 − ᾱ_t) or β                       section 3.2
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_ddpm.samplers.base import Sampler, signal_levels


@dataclass(frozen=True)
class DDPM(Sampler):
    """Draws x_s from the posterior q(x_s | x_t, x̂₀) for each pair of neighbours t > s.

    Args:
        steps, spacing, timesteps: see `Sampler`.

    >>> DDPM(steps=1000)
    DDPM(steps=1000, spacing=None, timesteps=None)
    """

    is_stochastic: ClassVar[bool] = True

    def coefficients(self, diffusion, timesteps):
        start, x_t, variance = posterior(diffusion, *signal_levels(diffusion, timesteps))
        return {"start": start, "x_t": x_t, "noise": np.sqrt(variance)}

    def step(self, denoise, x_t, c, inputs):
        x_start, _ = denoise(x_t, inputs.t)
        return c["start"] * x_start + c["x_t"] * x_t + c["noise"] * inputs.noise, x_start


def posterior(diffusion, signal, next_signal):
    """p(x_s | x_t, x̂₀) of steps from ᾱ_t to ᾱ_s > ᾱ_t: Ho et al., eq. 7.

    The factors of x̂₀ and of x_t in the mean, and the variance, float64 `(steps,)` each.
    """
    beta = 1 - signal / next_signal
    start = beta * np.sqrt(next_signal) / (1 - signal)
    x_t = (1 - next_signal) * np.sqrt(1 - beta) / (1 - signal)
    variance = beta
    if diffusion.variance == "posterior":
        variance = beta * (1 - next_signal) / (1 - signal)
    return start, x_t, np.where(next_signal == 1, 0.0, variance)  # the image gets no noise
