"""RePaint: Lugmayr et al. (2022), "RePaint: Inpainting using Denoising Diffusion"."""

import numpy as np
from keras import ops

from keras_ddpm.samplers.ddpm import DDPM, posterior


class RePaint(DDPM):
    """Ancestral sampling that paints the unknown pixels of an image: algorithm 1.

    The known image and a mask of bools come in `Moment.given`; True keeps the known pixel.
    Known and unknown pixels are drawn apart and do not match at first. Going up to more noise and
    down again, "resampling", lets the network bring them together.

    The timesteps are those at which the network is evaluated, and go down and up; see
    `repaint_visits`. A step goes from t down to the next lower timestep s of the list, and if the
    next one visited, t′, is above s, up again with q(x_t′ | x_s). Both are Gaussian, and together
    take one draw of noise.
    """

    def coefficients(self, diffusion, timesteps):
        plan = np.unique(timesteps)
        signals = np.append(1.0, diffusion.alphas_cumprod[plan])  # below the lowest: the image
        reached = signals[np.searchsorted(plan, timesteps)]  # ᾱ_s, below each visit
        next_signal = np.append(diffusion.alphas_cumprod[timesteps[1:]], 1.0)  # ᾱ_t′
        if (next_signal > reached).any():
            raise ValueError(
                f"timesteps={list(map(int, timesteps))} must not leave out any of them on the way "
                "down, and end at the lowest. Use `repaint_visits`."
            )
        start, x_t, variance = posterior(diffusion, diffusion.alphas_cumprod[timesteps], reached)
        # Ho et al., eq. 2 for many steps at once: x_t′ = a x_s + b ϵ; a = 1, b = 0 without going up
        a, b = np.sqrt(next_signal / reached), np.sqrt(1 - next_signal / reached)
        return {
            "start": a * start,
            "x_t": a * x_t,
            "noise": np.sqrt(a**2 * variance + b**2),
            "known": np.sqrt(next_signal),
            "known_noise": np.sqrt(1 - next_signal),
        }

    def step(self, denoise, x_t, c, now):
        if len(now.given) != 2:
            raise ValueError("RePaint needs an image and a mask: use `keras_ddpm.inpaint`.")
        known_image, is_known = now.given
        unknown, x_start = super().step(denoise, x_t, c, now)  # eq. 8b
        known = c["known"] * known_image + c["known_noise"] * now.noise  # eq. 8a
        return ops.where(is_known, known, unknown), x_start  # eq. 8c


def repaint_visits(plan, resampling, jump):
    """The timesteps of `plan`, in blocks of `jump`, each block `resampling` times.

    Args:
        plan: descending int array `(steps,)`.
        resampling: int >= 1; 1 is the plan itself.
        jump: int >= 1. If it does not divide `steps`, the last block is shorter.

    Returns:
        An int array `(steps * resampling,)`.

    Example:

    >>> repaint_visits(np.array([3, 2, 1, 0]), resampling=2, jump=2)
    array([3, 2, 3, 2, 1, 0, 1, 0])
    """
    blocks = [plan[i : i + jump] for i in range(0, len(plan), jump)]
    return np.concatenate([np.tile(block, resampling) for block in blocks])
