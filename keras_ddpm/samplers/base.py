"""What every sampler is: coefficients computed once, and one pure step."""

from typing import Any, NamedTuple

import numpy as np


class Moment(NamedTuple):
    """What a step is told beside x_t and its coefficients.

    Attributes:
        t: scalar int32 tensor, the timestep of x_t.
        t_next: scalar int32 tensor, the timestep to go to; -1 is the clean image.
        previous_start: x̂₀ of the step before (at the first step: x_T), for multistep methods.
        noise: standard normal tensor like x_t if the sampler `is_stochastic`, else None.
        given: tensors `(batch, ...)` that an edit hands to its sampler, such as a mask.
    """

    t: Any
    t_next: Any
    previous_start: Any
    noise: Any = None
    given: tuple = ()


class Sampler:
    """One way from noise to data.

    A subclass defines `coefficients` and `step`. The loop in `loop.py` calls `step` once for
    each timestep, inside one compiled program, and draws the noise if `is_stochastic`.
    """

    spacing = "trailing"  # the best of five where steps are few: benchmarks/sampler_quality.py
    is_stochastic = False

    def coefficients(self, diffusion, timesteps):
        """The numbers of every step.

        Args:
            diffusion: a `GaussianDiffusion`.
            timesteps: descending int array `(steps,)`.

        Returns:
            A dict of float64 arrays `(steps,)`. Each is cast to float32 once.

        Raises:
            ValueError: if the sampler cannot follow this diffusion or these timesteps.
        """
        raise NotImplementedError

    def step(self, denoise, x_t, c, now):
        """x at the next timestep.

        Args:
            denoise: function `(x_t, t) -> (x̂₀, ϵ̂)`; `t` is a scalar int tensor.
            x_t: float32 tensor `(batch, ...)`.
            c: dict of this step's coefficients, scalar float32 tensors.
            now: a `Moment`.

        Returns:
            The next x, and the x̂₀ that was predicted from x_t.
        """
        raise NotImplementedError


def signal_levels(diffusion, timesteps):
    """ᾱ at each timestep and at the one after it; after the last comes the image, ᾱ = 1."""
    here = diffusion.alphas_cumprod[timesteps]
    return here, np.append(here[1:], 1.0)


class SamplerWithEta(Sampler):
    """A sampler whose steps may add fresh noise.

    Args:
        eta: float >= 0, how much of it: 0 none, 1 as much as DDPM.
    """

    def __init__(self, eta=0.0):
        if not eta >= 0:
            raise ValueError(f"eta must be at least 0 (0: deterministic, 1: like DDPM), got {eta}.")
        self.eta = eta
        self.is_stochastic = eta > 0

    def noise_levels(self, signal, next_signal):
        """How much noise a step adds, and how much it keeps of the noise that is there.

        Together they are what x holds at the next timestep: added² + kept² = 1 − ᾱ_s. Song et al.
        (2021), "Denoising Diffusion Implicit Models", eq. 16:
        added = η √((1 − ᾱ_s)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_s).
        """
        added = (1 - next_signal) / (1 - signal) * (1 - signal / next_signal)
        added = self.eta * np.sqrt(added)
        kept_square = 1 - next_signal - added**2
        if (kept_square < -1e-12).any():
            raise ValueError(f"eta={self.eta} adds more noise than a step may hold; try eta <= 1.")
        return added, np.sqrt(np.maximum(kept_square, 0))
