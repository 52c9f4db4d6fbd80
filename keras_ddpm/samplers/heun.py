"""Heun's method: Karras et al. (2022), "Elucidating the Design Space", algorithm 1.

In x / √ᾱ the path is dx = ϵ̂ dσ with σ = √(1 − ᾱ) / √ᾱ:
x′ = √ᾱ_s x̂₀ + √(1 − ᾱ_s) ϵ̂                                            Euler's step to s
x_s = x′ + ½ √ᾱ_s (σ_s − σ_t) (ϵ̂(x′, s) − ϵ̂)                            the correction
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from keras import ops

from keras_ddpm.samplers.base import Sampler, signal_levels
from keras_ddpm.validation import check_number


@dataclass(frozen=True)
class Heun(Sampler):
    """Second order with two network evaluations a step: at its start and at its end.

    The last step, and steps with large growth, take one. So n steps take at most 2n − 1.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        max_growth: float > 1. A step that multiplies √ᾱ by more than this is Euler's. A cosine
            schedule begins with σ in the tens of thousands, and a corrected step from there is far
            off. `inf` corrects always, which is the algorithm as published.

    >>> Heun(steps=10).max_growth
    4.0
    """

    max_growth: float = 4.0

    is_second_order: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_number("max_growth", self.max_growth, "(1, inf]")

    def without_coefficients(self):
        return super().without_coefficients(max_growth=4.0)

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        with np.errstate(divide="ignore"):  # no signal at all, so infinite growth
            growth = np.sqrt(next_signal / signal)
        # The clean image after the last step has no noise to predict.
        is_corrected = (growth <= self.max_growth) & (signal > 0) & (next_signal < 1)
        half = (np.sqrt(1 - next_signal) - growth * np.sqrt(1 - signal)) / 2  # ½ √ᾱ_s (σ_s − σ_t)
        return {
            "start": np.sqrt(next_signal),
            "direction": np.sqrt(1 - next_signal),
            "correction": np.where(is_corrected, half, 0.0),
        }

    def step(self, denoise, x_t, c, inputs):
        x_start, noise = denoise(x_t, inputs.t)
        euler = c["start"] * x_start + c["direction"] * noise

        def correct():
            _, noise_at_end = denoise(euler, inputs.t_next)
            return euler + c["correction"] * (noise_at_end - noise)

        return ops.cond(c["correction"] < 0, correct, lambda: euler), x_start
