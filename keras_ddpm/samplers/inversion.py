"""DDIM backwards, from an image to its noise: Song et al. (2021), section 4.3.

x_s ← x_s + m (x_t − (√ᾱ_t x̂₀(x_s) + √(1 − ᾱ_t) ϵ̂(x_s))),  beginning with x_s = x_t
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_ddpm.samplers.base import Sampler
from keras_ddpm.validation import check_int


@dataclass(frozen=True)
class DDIMInversion(Sampler):
    """Finds the x_T from which DDIM at η = 0 returns to a given image.

    It visits the timesteps of DDIM in ascending order. A step up from t to s finds the x_s from
    which DDIM's step down (eq. 12) returns to x_t, by fixed-point iteration: the guess moves by the
    error of that step.

    For networks that predict noise m = √(ᾱ_s/ᾱ_t): Pan et al. (2023), "Effective Real Image Editing
    with Accelerated Iterative Diffusion Inversion"; with one evaluation it is the usual DDIM
    inversion (Mokady et al. 2023). This damps the errors of their x̂₀, which grow as 1/√ᾱ_s.
    Other predictions need no damping, so m = 1, and converge faster.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        evaluations: int >= 1, network evaluations a step. More are closer to the exact inverse.
    """

    evaluations: int = 3

    def __post_init__(self):
        super().__post_init__()
        check_int("evaluations", self.evaluations)

    def plan(self, diffusion):
        return super().plan(diffusion)[::-1]

    def coefficients(self, diffusion, timesteps):
        signal = diffusion.alphas_cumprod[timesteps]  # ᾱ_s
        below = np.append(1.0, signal[:-1])  # ᾱ_t; 1 is the image
        is_damped = diffusion.prediction == "noise"
        return {
            "start": np.sqrt(below),
            "direction": np.sqrt(1 - below),
            "move": np.sqrt(signal / below) if is_damped else np.ones_like(signal),
        }

    def step(self, denoise, x_t, c, inputs):
        def improve(_, guess):
            x_s, _ = guess
            x_start, predicted_noise = denoise(x_s, inputs.t)
            reached = c["start"] * x_start + c["direction"] * predicted_noise
            return x_s + c["move"] * (x_t - reached), x_start

        return ops.fori_loop(0, self.evaluations, improve, (x_t, x_t))
