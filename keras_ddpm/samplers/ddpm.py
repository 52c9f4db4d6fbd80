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
        signal, next_signal = signal_levels(diffusion, timesteps)
        beta = 1 - signal / next_signal  # eq. 19: the step's own β
        # Ho et al., eq. 7. The next ᾱ takes the place of ᾱ_{t−1}.
        posterior_variance = beta * (1 - next_signal) / (1 - signal)
        variance = posterior_variance if diffusion.variance == "posterior" else beta.copy()
        variance[-1] = 0.0  # the last step adds no noise
        return {
            "start": beta * np.sqrt(next_signal) / (1 - signal),
            "x_t": (1 - next_signal) * np.sqrt(1 - beta) / (1 - signal),
            "noise": np.sqrt(variance),
        }

    def step(self, denoise, x_t, c, now):
        x_start, _ = denoise(x_t, now.t)
        return c["start"] * x_start + c["x_t"] * x_t + c["noise"] * now.noise, x_start
