"""DDIM: Song et al. (2021), "Denoising Diffusion Implicit Models"."""

import numpy as np

from keras_ddpm.samplers.base import Sampler, signal_levels


class DDIM(Sampler):
    """Walks towards x̂₀ along the predicted noise, deterministic at η = 0.

    Args:
        eta: float >= 0, how much fresh noise a step adds: 0 none, 1 as much as DDPM.
    """

    def __init__(self, eta=0.0):
        if not eta >= 0:
            raise ValueError(f"eta must be at least 0 (0: deterministic, 1: like DDPM), got {eta}.")
        self.eta = eta
        self.is_stochastic = eta > 0

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        # eq. 16: σ = η √((1 − ᾱ_s)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_s)
        sigma = self.eta * np.sqrt((1 - next_signal) / (1 - signal) * (1 - signal / next_signal))
        # eq. 12: x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ϵ̂ + σ z
        left = 1 - next_signal - sigma**2
        if (left < -1e-12).any():
            raise ValueError(f"eta={self.eta} adds more noise than a step may hold; try eta <= 1.")
        return {
            "start": np.sqrt(next_signal),
            "direction": np.sqrt(np.maximum(left, 0)),
            "noise": sigma,
        }

    def step(self, denoise, x_t, c, now):
        x_start, predicted_noise = denoise(x_t, now.t)
        x_next = c["start"] * x_start + c["direction"] * predicted_noise
        if self.is_stochastic:
            x_next += c["noise"] * now.noise
        return x_next, x_start
