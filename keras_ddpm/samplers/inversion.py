"""DDIM backwards, from an image to its noise: Song et al. (2021), section 4.3."""

import numpy as np
from keras import ops

from keras_ddpm.samplers.base import Sampler
from keras_ddpm.validation import check_positive_int


class DDIMInversion(Sampler):
    """Finds the x_T from which DDIM at η = 0 arrives at a given image.

    It follows an ascending list of timesteps, from the image up to x at the last of them, and
    evaluates the network at those timesteps alone: the same ones that sampling visits. A step up
    from t to s looks for the x_s from which DDIM's step down (eq. 12) returns to x_t. Fixed-point
    iteration finds it: the guess is moved by what that step misses,

        x_s ← x_s + m (x_t − (√ᾱ_t x̂₀(x_s) + √(1 − ᾱ_t) ϵ̂(x_s))),  beginning with x_s = x_t.

    Networks that predict noise take m = √(ᾱ_s/ᾱ_t), which makes it x_s ← √(ᾱ_s/ᾱ_t) x_t + … ϵ̂(x_s):
    Pan et al. (2023), "Effective Real Image Editing with Accelerated Iterative Diffusion
    Inversion"; with one evaluation the usual DDIM inversion (Mokady et al. 2023). It damps the
    errors of their x̂₀, which grow as 1/√ᾱ_s, but hardly moves where a step loses most of the
    signal. Other predictions need no damping, m = 1, and converge faster.

    Args:
        evaluations: int >= 1, network calls a step: the more, the closer to the exact inverse.
    """

    def __init__(self, evaluations=3):
        self.evaluations = check_positive_int("evaluations", evaluations)

    def coefficients(self, diffusion, timesteps):
        if (np.diff(timesteps) <= 0).any():
            raise ValueError(
                f"timesteps={list(map(int, timesteps))} must ascend, from image to noise. Use "
                "`keras_ddpm.invert`, which turns the plan of `generate` around."
            )
        signal = diffusion.alphas_cumprod[timesteps]  # ᾱ_s
        below = np.append(1.0, signal[:-1])  # ᾱ_t; 1 is the image
        is_damped = diffusion.prediction == "noise"
        return {
            "start": np.sqrt(below),
            "direction": np.sqrt(1 - below),
            "move": np.sqrt(signal / below) if is_damped else np.ones_like(signal),
        }

    def step(self, denoise, x_t, c, now):
        def improve(_, guess):
            x_s, _ = guess
            x_start, predicted_noise = denoise(x_s, now.t)
            reached = c["start"] * x_start + c["direction"] * predicted_noise
            return x_s + c["move"] * (x_t - reached), x_start

        return ops.fori_loop(0, self.evaluations, improve, (x_t, x_t))
