"""Heun's method: Karras et al. (2022), "Elucidating the Design Space", algorithm 1."""

import numpy as np
from keras import ops

from keras_ddpm.samplers.base import Sampler, signal_levels


class Heun(Sampler):
    """Second order by looking twice: along the mean of the noise predicted here and at the end.

    In x / √ᾱ the path is dx = ϵ̂ dσ with σ = √(1 − ᾱ) / √ᾱ. A step costs two network evaluations,
    and one where it does not look again: n steps cost at most 2n − 1.

    Args:
        largest_growth: float > 1. A step that multiplies √ᾱ by more than this stays Euler's. A
            cosine schedule begins with σ in the tens of thousands; a step from there to ten
            averages two noises that have nothing to do with each other, and throws x off the
            path. `inf` never holds back, which is the algorithm as published.
    """

    def __init__(self, largest_growth=4.0):
        if not largest_growth > 1:
            raise ValueError(f"largest_growth must be more than 1, got {largest_growth}.")
        self.largest_growth = largest_growth

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        with np.errstate(divide="ignore"):  # no signal at all, so infinite growth
            growth = np.sqrt(next_signal / signal)
        # √ᾱ_s (σ_s − σ_t) / 2. The clean image has no noise to look at: nor has the last step.
        looks_again = (growth <= self.largest_growth) & (signal > 0) & (next_signal < 1)
        half = (np.sqrt(1 - next_signal) - growth * np.sqrt(1 - signal)) / 2
        return {
            # Euler's step, written as DDIM's: the same, without a difference of large numbers.
            "start": np.sqrt(next_signal),
            "direction": np.sqrt(1 - next_signal),
            "correction": np.where(looks_again, half, 0.0),
        }

    def step(self, denoise, x_t, c, now):
        x_start, here = denoise(x_t, now.t)
        euler = c["start"] * x_start + c["direction"] * here

        def correct():
            _, there = denoise(euler, now.t_next)
            return euler + c["correction"] * (there - here)

        return ops.cond(c["correction"] < 0, correct, lambda: euler), x_start
