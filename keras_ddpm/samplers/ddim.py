"""DDIM: Song et al. (2021), "Denoising Diffusion Implicit Models"."""

import numpy as np

from keras_ddpm.samplers.base import SamplerWithEta, signal_levels


class DDIM(SamplerWithEta):
    """Walks towards x̂₀ along the predicted noise, deterministic at η = 0.

    Args:
        eta: float >= 0, how much fresh noise a step adds: 0 none, 1 as much as DDPM.
    """

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        added, kept = self.noise_levels(signal, next_signal)
        # eq. 12: x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ϵ̂ + σ z
        return {"start": np.sqrt(next_signal), "direction": kept, "noise": added}

    def step(self, denoise, x_t, c, now):
        x_start, predicted_noise = denoise(x_t, now.t)
        x_next = c["start"] * x_start + c["direction"] * predicted_noise
        if self.is_stochastic:
            x_next += c["noise"] * now.noise
        return x_next, x_start
