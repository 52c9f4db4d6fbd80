"""Heun's method: Karras et al. (2022), "Elucidating the Design Space", algorithm 1."""

import numpy as np
from keras import ops

from keras_ddpm.samplers.base import Sampler, signal_levels


class Heun(Sampler):
    """Second order by looking twice: along the mean of the noise predicted here and at the end.

    In x / √ᾱ the path is dx = ϵ̂ dσ with σ = √(1 − ᾱ) / √ᾱ. A step costs two network evaluations,
    the last one only one: n steps cost 2n − 1.
    """

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        if signal[0] == 0:
            raise ValueError(
                "sampler='heun' divides by the signal in x_T, and this schedule leaves none "
                "(its last beta is 1). Use sampler='ddim', 'dpm_solver++' or 'ddpm'."
            )
        ratio = np.sqrt(next_signal / signal)
        return {
            "x_t": ratio,
            # √ᾱ_s (σ_s − σ_t)
            "direction": np.sqrt(1 - next_signal) - ratio * np.sqrt(1 - signal),
        }

    def step(self, denoise, x_t, c, now):
        x_start, here = denoise(x_t, now.t)
        euler = c["x_t"] * x_t + c["direction"] * here

        def correct():
            _, there = denoise(euler, now.t_next)
            return c["x_t"] * x_t + c["direction"] * (here + there) / 2

        # The clean image has no noise to predict: there Euler's step has the last word.
        return ops.cond(now.t_next < 0, lambda: euler, correct), x_start
