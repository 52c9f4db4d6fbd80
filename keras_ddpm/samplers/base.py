"""What every sampler is: coefficients computed once, and one pure step."""

import numpy as np


class Sampler:
    """One way from noise to data.

    A subclass defines `coefficients` and `step`. The loop in `loop.py` calls `step` once for
    each timestep, inside one compiled program, and draws the noise if `is_stochastic`.
    """

    spacing = "linspace"
    is_stochastic = False

    def coefficients(self, diffusion, timesteps):
        """The numbers of every step.

        Args:
            diffusion: a `GaussianDiffusion`.
            timesteps: descending int array `(steps,)`.

        Returns:
            A dict of float64 arrays `(steps,)`. Each is cast to float32 once.
        """
        raise NotImplementedError

    def step(self, denoise, x_t, previous_start, t, c, noise):
        """x at the next timestep.

        Args:
            denoise: function `(x_t, t) -> (x̂₀, ϵ̂)`; `t` is a scalar int tensor.
            x_t: float32 tensor `(batch, ...)`.
            previous_start: x̂₀ of the step before (at the first step: `x_t`), for multistep methods.
            t: scalar int32 tensor, the timestep of `x_t`.
            c: dict of this step's coefficients, scalar float32 tensors.
            noise: standard normal tensor like `x_t` if `is_stochastic`, else None.

        Returns:
            The next x, and the x̂₀ that it was computed from.
        """
        raise NotImplementedError


def signal_levels(diffusion, timesteps):
    """ᾱ at each timestep and at the one after it; after the last comes the image, ᾱ = 1."""
    here = diffusion.alphas_cumprod[timesteps]
    return here, np.append(here[1:], 1.0)
