"""RePaint: Lugmayr et al. (2022), "RePaint: Inpainting using Denoising Diffusion", algorithm 1.

unknown = a step of DDPM from x_t to x_s                                eq. 8b
known = √ᾱ_s x₀ + √(1 − ᾱ_s) z                                          eq. 8a
x_s = known where the mask is 1, else unknown                           eq. 8c
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_ddpm.samplers.ddpm import DDPM, posterior
from keras_ddpm.validation import check_array, check_int


@dataclass(frozen=True)
class RePaint(DDPM):
    """Ancestral sampling that fills in the unknown pixels of an image.

    The image and a mask of bools are in `StepInputs.given`; True keeps a pixel. Known and unknown
    pixels are drawn apart. Going back up to more noise and down again ("resampling") lets the
    network adapt them to each other.

    A step goes from t down to the next lower timestep s, and if the next timestep visited, t′, is
    above s, up again with q(x_t′ | x_s). Both are Gaussian, and together they are one Gaussian: one
    step of this sampler, with one draw of noise.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        resample_steps: int >= 1, how often each step is taken, "r" in the paper (diffusers:
            `jump_n_sample`).
        jump_length: int >= 1, after how many steps it goes back up, "j" in the paper.
    """

    resample_steps: int = 5
    jump_length: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_int("resample_steps", self.resample_steps)
        check_int("jump_length", self.jump_length)

    def plan(self, diffusion):
        """The timesteps in blocks of `jump_length`, each block `resample_steps` times.

        With `resample_steps=2` and `jump_length=2` the plan 5, 4, 3, 2, 1 becomes
        5, 4, 5, 4, 3, 2, 3, 2, 1, 1.
        """
        plan, jump = super().plan(diffusion), self.jump_length
        blocks = [plan[i : i + jump] for i in range(0, len(plan), jump)]
        return np.concatenate([np.tile(block, self.resample_steps) for block in blocks])

    def check_given(self, given, shape):
        if len(given) != 2:
            raise ValueError(f"given has {len(given)} arrays, but must be images and a mask.")
        check_array("given[0]", given[0], shape)
        if np.asarray(given[1]).dtype != bool or given[1].shape != (*shape[:-1], 1):
            raise ValueError(f"given[1] must be bools {(*shape[:-1], 1)}: True keeps a pixel.")

    def without_coefficients(self):
        return super().without_coefficients(resample_steps=1, jump_length=1)

    def coefficients(self, diffusion, timesteps):
        plan = np.unique(timesteps)
        signals = np.append(1.0, diffusion.alphas_cumprod[plan])  # the image is below the lowest
        reached = signals[np.searchsorted(plan, timesteps)]  # ᾱ_s, below each visit
        next_signal = np.append(diffusion.alphas_cumprod[timesteps[1:]], 1.0)  # ᾱ_t′
        start, x_t, variance = posterior(diffusion, diffusion.alphas_cumprod[timesteps], reached)
        # Ho et al., eq. 2 for many steps at once: x_t′ = a x_s + b ϵ; if s is next, a = 1, b = 0.
        a, b = np.sqrt(next_signal / reached), np.sqrt(1 - next_signal / reached)
        return {
            "start": a * start,
            "x_t": a * x_t,
            "noise": np.sqrt(a**2 * variance + b**2),
            "known": np.sqrt(next_signal),
            "known_noise": np.sqrt(1 - next_signal),
        }

    def step(self, denoise, x_t, c, inputs):
        image, is_known = inputs.given
        unknown, x_start = super().step(denoise, x_t, c, inputs)
        known = c["known"] * image + c["known_noise"] * inputs.noise
        return ops.where(is_known, known, unknown), x_start
