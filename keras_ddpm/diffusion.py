"""The diffusion process: how noise is added to data, and how one step of it is undone.

Equation numbers are those of Ho et al. (2020), "Denoising Diffusion Probabilistic Models", unless
another paper is named. Nothing in this file depends on a network or on training.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from keras_ddpm.clipping import clip_start
from keras_ddpm.schedules import (
    SCHEDULES,
    check_betas,
    linear_betas,
    warn_if_signal_remains,
    zero_terminal_snr_betas,
)
from keras_ddpm.types import Tensor
from keras_ddpm.validation import check_array, check_bool, check_choice, check_int, check_number

PREDICTIONS = ("noise", "start", "velocity")
VARIANCES = ("posterior", "beta")


@keras.saving.register_keras_serializable("keras_ddpm")
class GaussianDiffusion:
    """The forward process from data to noise, and the formulas of its reverse.

    In all methods `x_start`, `x_t`, `noise` and `output` are float tensors of one shape
    `(batch, ...)`: images `(batch, height, width, channels)`, or points `(batch, 2)`. `t` is int32
    `(batch,)` in [0, timesteps); `t = 0` is one step of noise. Results are float32 under any dtype
    policy, because bfloat16 cannot tell ᾱ_998 from ᾱ_999: like `x_t`, or `(batch, 1, ...)` where
    all entries of a sample are equal. Tables are float64 NumPy arrays `(timesteps,)`.

    Args:
        timesteps: int in [1, 1000000], the number of steps T.
        schedule: how the noise grows: `"linear"` (Ho et al.), `"cosine"` (Nichol & Dhariwal), or
            `"flow"`, the path of flow matching (Lipman et al. 2023), which holds no signal in x_T
            and so needs `prediction="velocity"` or `"start"`.
        beta_start: float, first beta of the linear schedule.
        beta_end: float, last beta of the linear schedule.
        betas: optional floats in (0, 1) that replace timesteps and schedule. The last one may be 1
            (no signal left), unless the network predicts noise.
        prediction: what the network predicts: `"noise"` (ϵ, Ho et al.; diffusers: `epsilon`),
            `"start"` (x₀; diffusers: `sample`) or `"velocity"` (v, Salimans & Ho 2022; diffusers:
            `v_prediction`).
        variance: variance of a reverse step, section 3.2: `"posterior"` (β̃; diffusers:
            `fixed_small`) or `"beta"` (β; diffusers: `fixed_large`).
        zero_terminal_snr: bool, whether to rescale the schedule so that x_T holds no signal (Lin et
            al. 2024; diffusers: `rescale_betas_zero_snr`). Not with `prediction="noise"`.

    ```python
    diffusion = GaussianDiffusion(timesteps=1000, schedule="linear")
    images = keras.random.uniform((8, 32, 32, 3), -1, 1)
    t = keras.random.randint((8,), 0, diffusion.timesteps, dtype="int32")
    x_t = diffusion.q_sample(images, t, noise=keras.random.normal(images.shape))
    ```
    """

    def __init__(
        self,
        timesteps: int = 1000,
        schedule: Literal["linear", "cosine", "flow"] = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        betas: Sequence[float] | None = None,
        prediction: Literal["noise", "start", "velocity"] = "noise",
        variance: Literal["posterior", "beta"] = "posterior",
        zero_terminal_snr: bool = False,
    ):
        check_int("timesteps", timesteps, maximum=1_000_000)
        self.schedule = check_choice("schedule", schedule, SCHEDULES)
        self.beta_start = check_number("beta_start", beta_start, "(0, 1)")
        self.beta_end = check_number("beta_end", beta_end, "(0, 1)")
        self.prediction = check_choice("prediction", prediction, PREDICTIONS)
        self.variance = check_choice("variance", variance, VARIANCES)
        self.zero_terminal_snr = check_bool("zero_terminal_snr", zero_terminal_snr)
        self.has_own_betas = betas is not None
        if self.has_own_betas:
            self.betas = check_betas(betas)
        elif schedule == "linear":
            self.betas = linear_betas(timesteps, beta_start, beta_end)
        else:
            self.betas = SCHEDULES[schedule](timesteps)
        if zero_terminal_snr:
            self.betas = zero_terminal_snr_betas(self.betas)
        if self.betas[-1] == 1 and prediction == "noise":
            raise ValueError(
                "prediction='noise' is not possible with schedule='flow', zero_terminal_snr=True "
                "or betas[-1]=1: without signal in x_T, x₀ cannot be computed from a predicted "
                "noise. Use prediction='velocity' or prediction='start'."
            )
        self.timesteps = len(self.betas)
        self._compute_tables()
        warn_if_signal_remains(self.alphas_cumprod)

    def _compute_tables(self):
        alphas = 1.0 - self.betas  # α_t = 1 − β_t
        self.alphas_cumprod = np.cumprod(alphas)  # ᾱ_t = ∏ α_s
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])  # ᾱ_{t−1}, ᾱ_{−1} = 1
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)
        with np.errstate(divide="ignore"):  # β_T = 1 makes ᾱ_T = 0
            self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
            self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)
        self.log_one_minus_alphas_cumprod = np.log(1 - self.alphas_cumprod)

        # The posterior q(x_{t−1} | x_t, x₀) is Gaussian: eq. 6 and 7.
        noise_prev = 1 - self.alphas_cumprod_prev
        self.posterior_variance = self.betas * noise_prev / (1 - self.alphas_cumprod)  # β̃_t
        self.posterior_mean_coef1 = (
            self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        )
        self.posterior_mean_coef2 = noise_prev * np.sqrt(alphas) / (1 - self.alphas_cumprod)
        # β̃_0 = 0 has no logarithm. Like the authors' code, this takes β̃_1 in its place.
        first = self.posterior_variance[1] if self.timesteps > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(first, self.posterior_variance[1:]))
        # The model's own step has variance β̃ or β (section 3.2), with the same first entry.
        self.model_variance = (
            self.posterior_variance
            if self.variance == "posterior"
            else np.append(first, self.betas[1:])
        )
        self.model_log_variance = np.log(np.append(first, self.model_variance[1:]))

    # ---- the forward process q -------------------------------------------------------------

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x₀), eq. 4."""
        x_start = ops.cast(x_start, "float32")
        mean = self._at("sqrt_alphas_cumprod", t, x_start) * x_start  # √ᾱ_t x₀
        variance = self._at("sqrt_one_minus_alphas_cumprod", t, x_start) ** 2  # 1 − ᾱ_t
        return mean, variance, self._at("log_one_minus_alphas_cumprod", t, x_start)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ϵ, eq. 4, with standard normal noise ϵ."""
        return self._sum(x_start, "sqrt_alphas_cumprod", t, noise, "sqrt_one_minus_alphas_cumprod")

    def q_posterior_mean_variance(
        self, x_start: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log-variance of q(x_{t−1} | x_t, x₀), eq. 6 and 7."""
        mean = self._sum(x_start, "posterior_mean_coef1", t, x_t, "posterior_mean_coef2")
        return (
            mean,
            self._at("posterior_variance", t, x_t),
            self._at("posterior_log_variance_clipped", t, x_t),
        )

    # ---- x₀, ϵ and v, each from another ------------------------------------------------------

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x₀ = x_t / √ᾱ_t − √(1/ᾱ_t − 1) ϵ: eq. 4 solved for x₀."""
        noise = -ops.cast(noise, "float32")
        return self._sum(x_t, "sqrt_recip_alphas_cumprod", t, noise, "sqrt_recipm1_alphas_cumprod")

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """ϵ = (x_t − √ᾱ_t x₀) / √(1 − ᾱ_t): eq. 4 solved for ϵ."""
        x_t, x_start = ops.cast(x_t, "float32"), ops.cast(x_start, "float32")
        return (x_t - self._at("sqrt_alphas_cumprod", t, x_t) * x_start) / self._at(
            "sqrt_one_minus_alphas_cumprod", t, x_t
        )

    def velocity(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v = √ᾱ_t ϵ − √(1 − ᾱ_t) x₀: Salimans & Ho (2022), appendix D."""
        x_start = -ops.cast(x_start, "float32")
        return self._sum(noise, "sqrt_alphas_cumprod", t, x_start, "sqrt_one_minus_alphas_cumprod")

    def predict_start_from_velocity(self, x_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """x₀ = √ᾱ_t x_t − √(1 − ᾱ_t) v: Salimans & Ho (2022), appendix D."""
        velocity = -ops.cast(velocity, "float32")
        return self._sum(x_t, "sqrt_alphas_cumprod", t, velocity, "sqrt_one_minus_alphas_cumprod")

    def predict_noise_from_velocity(self, x_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """ϵ = √(1 − ᾱ_t) x_t + √ᾱ_t v: Salimans & Ho (2022), appendix D."""
        return self._sum(x_t, "sqrt_one_minus_alphas_cumprod", t, velocity, "sqrt_alphas_cumprod")

    # ---- the model's reverse process p ---------------------------------------------------------

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict from `x_t = q_sample(x_start, t, noise)`."""
        if self.prediction == "noise":
            return ops.cast(noise, "float32")
        if self.prediction == "start":
            return ops.cast(x_start, "float32")
        return self.velocity(x_start, t, noise)

    def predict_start(
        self, x_t: Tensor, t: Tensor, output: Tensor, clip_denoised: bool | float = False
    ) -> Tensor:
        """x̂₀ from the network's output: noise, x₀ or v, according to `prediction`.

        `clip_denoised` is that of `clip_start`.
        """
        if self.prediction == "noise":
            x_start = self.predict_start_from_noise(x_t, t, output)
        elif self.prediction == "start":
            x_start = ops.cast(output, "float32")
        else:
            x_start = self.predict_start_from_velocity(x_t, t, output)
        return clip_start(x_start, clip_denoised)

    def p_mean_variance(
        self, output: Tensor, x_t: Tensor, t: Tensor, clip_denoised: bool | float = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, variance, log-variance of p(x_{t−1} | x_t), and x̂₀: eq. 1, 11 and section 3.2.

        The mean is that of the posterior (eq. 7) with x̂₀ in the place of x₀.
        """
        x_start = self.predict_start(x_t, t, output, clip_denoised)
        mean, _, _ = self.q_posterior_mean_variance(x_start, x_t, t)
        variance = self._at("model_variance", t, x_t)
        return mean, variance, self._at("model_log_variance", t, x_t), x_start

    def p_sample(
        self,
        output: Tensor,
        x_t: Tensor,
        t: Tensor,
        noise: Tensor,
        clip_denoised: bool | float = False,
    ) -> Tensor:
        """One ancestral step x_t → x_{t−1}, algorithm 2. No noise is added at `t = 0`."""
        mean, _, log_variance, _ = self.p_mean_variance(output, x_t, t, clip_denoised)
        is_last = ops.reshape(ops.equal(t, 0), ops.shape(log_variance))
        noise = ops.where(is_last, 0.0, ops.cast(noise, "float32"))
        return mean + ops.exp(0.5 * log_variance) * noise

    def _at(self, table, t, x):
        """Entries `t` of a table as float32 `(batch, 1, ...)`, to broadcast against `x`."""
        if isinstance(t, int | list | np.ndarray):  # a tensor may have no values yet
            given = check_array("t", t, (...,))
            if given.dtype.kind == "f" or given.min() < 0 or given.max() >= self.timesteps:
                raise ValueError(f"t={t!r} must hold ints in [0, {self.timesteps - 1}].")
        table = ops.convert_to_tensor(getattr(self, table).astype("float32"))
        return ops.reshape(ops.take(table, t, axis=0), (-1,) + (1,) * (len(x.shape) - 1))

    def _sum(self, a, table_a, t, b, table_b):
        """table_a[t] · a + table_b[t] · b in float32."""
        a, b = ops.cast(a, "float32"), ops.cast(b, "float32")
        return self._at(table_a, t, a) * a + self._at(table_b, t, b) * b

    def get_config(self) -> dict[str, Any]:
        config = {"prediction": self.prediction, "variance": self.variance}
        if self.has_own_betas:  # already rescaled, if they were to be
            return {"betas": self.betas.tolist(), **config}
        return {
            "timesteps": self.timesteps,
            "schedule": self.schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "zero_terminal_snr": self.zero_terminal_snr,
            **config,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __repr__(self):
        options = {**self.get_config(), **({"betas": "..."} if self.has_own_betas else {})}
        return f"GaussianDiffusion({', '.join(f'{k}={v!r}' for k, v in options.items())})"
