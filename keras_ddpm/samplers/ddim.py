"""DDIM: Song et al. (2021), "Denoising Diffusion Implicit Models".

x̂₀, ϵ̂ = the network's prediction from x_t
σ = η √((1 − ᾱ_s)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_s)                     eq. 16
x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ϵ̂ + σ z                          eq. 12
"""

from dataclasses import dataclass

import numpy as np

from keras_ddpm.samplers.base import SamplerWithEta, signal_levels


@dataclass(frozen=True)
class DDIM(SamplerWithEta):
    """Moves to the next timestep along the predicted noise; deterministic at η = 0.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        eta: float >= 0, the amount of fresh noise: 0 is deterministic, 1 adds as much as DDPM.

    >>> DDIM(steps=20, eta=0.5)
    DDIM(steps=20, spacing=None, timesteps=None, eta=0.5)
    """

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        added, kept = self.noise_levels(signal, next_signal)
        return {"start": np.sqrt(next_signal), "direction": kept, "noise": added}

    def step(self, denoise, x_t, c, inputs):
        x_start, predicted_noise = denoise(x_t, inputs.t)
        x_next = c["start"] * x_start + c["direction"] * predicted_noise
        if self.is_stochastic:
            x_next += c["noise"] * inputs.noise
        return x_next, x_start
