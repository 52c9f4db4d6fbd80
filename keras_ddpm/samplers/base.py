"""What every sampler is: a choice of timesteps, coefficients computed once, and one pure step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.samplers.spacing import SPACINGS, check_timesteps, choose_timesteps
from keras_ddpm.types import Tensor
from keras_ddpm.validation import check_choice, check_int, check_number


class StepInputs(NamedTuple):
    """The inputs of a step besides x_t and its coefficients."""

    t: Tensor  # scalar int32 tensor, the timestep of x_t
    t_next: Tensor  # scalar int32 tensor, the next timestep; -1 is the clean image
    previous_start: Tensor  # x̂₀ of the step before (at the first step: x_T), for multistep methods
    noise: Tensor = None  # standard normal tensor like x_t if the sampler `is_stochastic`
    given: tuple[Tensor, ...] = ()  # `(batch, ...)`, what an edit passes, such as a mask


@dataclass(frozen=True)
class Sampler:
    """A method that goes from noise to data. A subclass defines `coefficients` and `step`.

    Options are fields of a frozen dataclass, because equal samplers share a compiled program.

    Args:
        steps: int in [1, diffusion.timesteps]; None means at most 50.
        spacing: which timesteps are visited: `"linspace"`, `"leading"`, `"trailing"`,
            `"quadratic"` or `"logsnr"`; `spacing.py` has their formulas. None is `"trailing"`, but
            `"logsnr"` for points and a second-order method, see `suited_to`.
        timesteps: optional descending ints, instead of `steps` and `spacing`. The clean data
            follow the last one.
    """

    steps: int | None = None
    spacing: str | None = None
    timesteps: Sequence[int] | None = None

    is_stochastic: ClassVar[bool] = False
    is_second_order: ClassVar[bool] = False

    def __post_init__(self):
        if self.steps is not None:
            check_int("steps", self.steps)
        if self.spacing is not None:
            check_choice("spacing", self.spacing, SPACINGS)
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", check_timesteps(self.timesteps))

    def plan(self, diffusion: GaussianDiffusion) -> np.ndarray:
        """The timesteps to visit, an int32 array `(steps,)`, in the order of the visits."""
        spacing = self.spacing or "trailing"
        return choose_timesteps(diffusion, self.steps, spacing, self.timesteps)

    def suited_to(self, sample_shape: Sequence[int]) -> Self:
        """This sampler with the spacing for images `(height, width, channels)`, or for points.

        Trained networks draw the best images with few `"trailing"` steps
        (benchmarks/sampler_quality.py). But the last of these is long, and there a second-order
        method is of first order, which makes points too close together: a Gaussian of standard
        deviation 0.08 becomes 45 % narrower in 30 linear steps of DPM-Solver++, with `"logsnr"`
        0.2 %.
        """
        is_default = self.spacing is None and self.is_second_order and len(sample_shape) != 3
        return replace(self, spacing="logsnr") if is_default else self

    def coefficients(
        self, diffusion: GaussianDiffusion, timesteps: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The coefficients of all steps of a plan: a dict of float64 arrays `(steps,)`."""
        raise NotImplementedError

    def without_coefficients(self, **defaults: Any) -> Self:
        """A sampler with the same `step`. Those that are equal then share a compiled program.

        A subclass passes values for its options that only `coefficients` and `plan` read.
        """
        return replace(self, steps=None, spacing=None, timesteps=None, **defaults)

    def check_given(self, given: Sequence[Tensor], shape: Sequence[int]) -> None:
        """Refuses wrong `StepInputs.given` for x_t of this shape. A sampler that needs some
        defines it.
        """

    def step(
        self,
        denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        x_t: Tensor,
        c: dict[str, Tensor],
        inputs: StepInputs,
    ) -> tuple[Tensor, Tensor]:
        """x at the next timestep, and the x̂₀ that was predicted from x_t.

        Args:
            denoise: function `(x_t, t) -> (x̂₀, ϵ̂)`; `t` is a scalar int tensor.
            x_t: float32 tensor `(batch, ...)`.
            c: dict of this step's coefficients, scalar float32 tensors.
            inputs: a `StepInputs`.
        """
        raise NotImplementedError


def signal_levels(
    diffusion: GaussianDiffusion, timesteps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ᾱ at each timestep and at the one after it; the image after the last one has ᾱ = 1."""
    here = diffusion.alphas_cumprod[timesteps]
    return here, np.append(here[1:], 1.0)


@dataclass(frozen=True)
class SamplerWithEta(Sampler):
    """A sampler that can add fresh noise.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        eta: float >= 0, the amount of fresh noise: 0 is deterministic, 1 adds as much as DDPM.
    """

    eta: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_number("eta", self.eta, "[0, inf)")

    @property
    def is_stochastic(self) -> bool:  # type: ignore[override]  # of the instance, not the class
        return self.eta > 0

    def without_coefficients(self):
        return super().without_coefficients(eta=float(self.is_stochastic))

    def noise_levels(
        self, signal: np.ndarray, next_signal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How much noise a step adds, and how much of the predicted noise it keeps.

        Together they are the noise at the next timestep: added² + kept² = 1 − ᾱ_s. Song et al.
        (2021), eq. 16: added = η √((1 − ᾱ_s)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_s).
        """
        added = (1 - next_signal) / (1 - signal) * (1 - signal / next_signal)
        added = self.eta * np.sqrt(added)
        kept_square = 1 - next_signal - added**2
        if (kept_square < -1e-12).any():
            raise ValueError(f"eta={self.eta} adds more noise than a step may hold; try eta <= 1.")
        return added, np.sqrt(np.maximum(kept_square, 0))
