"""The diffusion process itself: what noise does to data, and how a step undoes it.

Nothing here knows a network or a training loop. Equation numbers are those of
Ho et al. (2020), "Denoising Diffusion Probabilistic Models", unless another paper is named.
"""

import keras
import numpy as np
from keras import ops

from keras_ddpm.clipping import clip_start
from keras_ddpm.schedules import (
    SCHEDULES,
    check_betas,
    cosine_betas,
    linear_betas,
    warn_if_signal_remains,
    without_terminal_signal,
)
from keras_ddpm.validation import check_choice, check_positive_int

PREDICTIONS = ("noise", "start", "velocity")
VARIANCES = ("posterior", "beta")


@keras.saving.register_keras_serializable("keras_ddpm")
class GaussianDiffusion:
    """A forward process that turns data into noise, and the algebra of its reverse.

    Data may have any rank: images `(batch, height, width, channels)`, points `(batch, 2)`.
    Timesteps are int32 vectors `(batch,)` and 0-based: `t = 0` is one step of noise.
    Tables are float64 NumPy arrays of shape `(timesteps,)`; tensors computed from them are
    float32 whatever the dtype policy, because bfloat16 cannot tell ᾱ_998 from ᾱ_999.

    Args:
        timesteps: int >= 1, the number of steps T. Not needed with `betas`.
        schedule: `"linear"` (Ho et al.) or `"cosine"` (Nichol & Dhariwal).
        beta_start: float, first beta of the linear schedule.
        beta_end: float, last beta of the linear schedule.
        betas: optional sequence of floats in (0, 1), which replaces the schedule. The last
            one may be 1 (no signal left at all), unless the network predicts noise.
        prediction: what the network outputs: `"noise"` (ϵ, Ho et al.), `"start"` (x₀) or
            `"velocity"` (v, Salimans & Ho 2022).
        zero_terminal_snr: bool, whether the schedule is rescaled so that x_T holds no signal at
            all (Lin et al. 2024). Sampling then starts where training ended, and very dark or
            very bright images are within reach. The network must not predict noise.
        variance: variance of a reverse step: `"posterior"` (β̃) or `"beta"` (β); section 3.2.

    Raises:
        ValueError: for a value outside what is described above.

    Example:

    ```python
    diffusion = GaussianDiffusion(timesteps=1000, schedule="linear")
    t = keras.random.randint((8,), 0, diffusion.timesteps, dtype="int32")
    noise = keras.random.normal(images.shape)
    x_t = diffusion.q_sample(images, t, noise)
    ```
    """

    def __init__(
        self,
        timesteps=None,
        schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        betas=None,
        prediction="noise",
        variance="posterior",
        zero_terminal_snr=False,
    ):
        self.prediction = check_choice("prediction", prediction, PREDICTIONS)
        self.variance = check_choice("variance", variance, VARIANCES)
        self.schedule = check_choice("schedule", schedule, SCHEDULES)
        self.beta_start, self.beta_end = beta_start, beta_end
        self._custom_betas = betas is not None
        if self._custom_betas:
            betas = np.array(betas, dtype="float64")
            if timesteps not in (None, betas.size):
                raise ValueError(
                    f"timesteps={timesteps} disagrees with the {betas.size} betas given. "
                    "Leave `timesteps` out: it is the number of betas."
                )
        else:
            timesteps = check_positive_int("timesteps", 1000 if timesteps is None else timesteps)
            betas = (
                linear_betas(timesteps, beta_start, beta_end)
                if schedule == "linear"
                else cosine_betas(timesteps)
            )
        check_betas(betas)
        self.zero_terminal_snr = zero_terminal_snr
        if zero_terminal_snr:
            betas = without_terminal_signal(betas)
        if betas[-1] == 1 and prediction == "noise":
            raise ValueError(
                f"prediction='noise' does not go with betas[-1] = 1 (zero_terminal_snr="
                f"{zero_terminal_snr}): without signal in x_T, x0 cannot be computed from a "
                "predicted noise. Use prediction='velocity' or prediction='start'."
            )
        self.betas = betas
        self.timesteps = len(betas)

        alphas = 1.0 - betas  # α_t = 1 − β_t
        self.alphas_cumprod = np.cumprod(alphas)  # ᾱ_t = ∏ α_s
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])  # ᾱ_{t−1}, ᾱ_{−1} = 1
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)  # the signal's rate
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)  # the noise's rate
        with np.errstate(divide="ignore"):  # β_T = 1 leaves ᾱ_T = 0
            self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
            self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)
        self.log_one_minus_alphas_cumprod = np.log(1 - self.alphas_cumprod)

        # The posterior q(x_{t−1} | x_t, x₀) is Gaussian: eq. 6 and 7.
        left_over = 1 - self.alphas_cumprod_prev
        self.posterior_variance = betas * left_over / (1 - self.alphas_cumprod)  # β̃_t
        self.posterior_mean_coef1 = (
            betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        )
        self.posterior_mean_coef2 = left_over * np.sqrt(alphas) / (1 - self.alphas_cumprod)
        # β̃_0 = 0 has no logarithm: the authors' code repeats the second entry, and so do we.
        floor = self.posterior_variance[1] if self.timesteps > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(floor, self.posterior_variance[1:]))
        # The network's own step has variance β̃ or β (section 3.2), same first entry for both.
        self.model_variance = (
            self.posterior_variance if variance == "posterior" else np.append(floor, betas[1:])
        )
        self.model_log_variance = np.log(np.append(floor, self.model_variance[1:]))

        warn_if_signal_remains(self.alphas_cumprod)

    # ---- forward: q ---------------------------------------------------------------------

    def q_mean_variance(self, x_start, t):
        """Mean, variance and log-variance of q(x_t | x₀), eq. 4.

        Args:
            x_start: float tensor `(batch, ...)`, clean data x₀.
            t: int32 tensor `(batch,)` in [0, timesteps).

        Returns:
            Three float32 tensors: the mean like `x_start`, variance and log-variance
            `(batch, 1, ...)`.
        """
        x_start = ops.cast(x_start, "float32")
        mean = self._at("sqrt_alphas_cumprod", t, x_start) * x_start  # √ᾱ_t x₀
        variance = self._at("sqrt_one_minus_alphas_cumprod", t, x_start) ** 2  # 1 − ᾱ_t
        return mean, variance, self._at("log_one_minus_alphas_cumprod", t, x_start)

    def q_sample(self, x_start, t, noise):
        """Diffuses x₀ for t steps at once: x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ϵ, eq. 4.

        Args:
            x_start: float tensor `(batch, ...)`, clean data x₀.
            t: int32 tensor `(batch,)` in [0, timesteps).
            noise: float tensor like `x_start`, standard normal.

        Returns:
            x_t, a float32 tensor like `x_start`.
        """
        x_start, noise = ops.cast(x_start, "float32"), ops.cast(noise, "float32")
        return (
            self._at("sqrt_alphas_cumprod", t, x_start) * x_start
            + self._at("sqrt_one_minus_alphas_cumprod", t, x_start) * noise
        )

    def q_posterior_mean_variance(self, x_start, x_t, t):
        """Mean, variance and clipped log-variance of q(x_{t−1} | x_t, x₀), eq. 6 and 7."""
        mean = self._at("posterior_mean_coef1", t, x_t) * ops.cast(x_start, "float32") + self._at(
            "posterior_mean_coef2", t, x_t
        ) * ops.cast(x_t, "float32")
        return (
            mean,
            self._at("posterior_variance", t, x_t),
            self._at("posterior_log_variance_clipped", t, x_t),
        )

    # ---- x₀, noise and velocity, each from another -----------------------------------------

    def predict_start_from_noise(self, x_t, t, noise):
        """x₀ = x_t / √ᾱ_t − √(1/ᾱ_t − 1) ϵ: eq. 4 solved for x₀."""
        return self._at("sqrt_recip_alphas_cumprod", t, x_t) * ops.cast(x_t, "float32") - self._at(
            "sqrt_recipm1_alphas_cumprod", t, x_t
        ) * ops.cast(noise, "float32")

    def predict_noise_from_start(self, x_t, t, x_start):
        """ϵ = (x_t − √ᾱ_t x₀) / √(1 − ᾱ_t): eq. 4 solved for ϵ."""
        x_t, x_start = ops.cast(x_t, "float32"), ops.cast(x_start, "float32")
        return (x_t - self._at("sqrt_alphas_cumprod", t, x_t) * x_start) / self._at(
            "sqrt_one_minus_alphas_cumprod", t, x_t
        )

    def velocity(self, x_start, t, noise):
        """v = √ᾱ_t ϵ − √(1 − ᾱ_t) x₀: Salimans & Ho (2022), appendix D."""
        x_start, noise = ops.cast(x_start, "float32"), ops.cast(noise, "float32")
        return (
            self._at("sqrt_alphas_cumprod", t, x_start) * noise
            - self._at("sqrt_one_minus_alphas_cumprod", t, x_start) * x_start
        )

    def predict_start_from_velocity(self, x_t, t, velocity):
        """x₀ = √ᾱ_t x_t − √(1 − ᾱ_t) v: Salimans & Ho (2022), appendix D."""
        x_t, velocity = ops.cast(x_t, "float32"), ops.cast(velocity, "float32")
        return (
            self._at("sqrt_alphas_cumprod", t, x_t) * x_t
            - self._at("sqrt_one_minus_alphas_cumprod", t, x_t) * velocity
        )

    def predict_noise_from_velocity(self, x_t, t, velocity):
        """ϵ = √(1 − ᾱ_t) x_t + √ᾱ_t v: Salimans & Ho (2022), appendix D."""
        x_t, velocity = ops.cast(x_t, "float32"), ops.cast(velocity, "float32")
        return (
            self._at("sqrt_one_minus_alphas_cumprod", t, x_t) * x_t
            + self._at("sqrt_alphas_cumprod", t, x_t) * velocity
        )

    # ---- the network's side: p -----------------------------------------------------------

    def target(self, x_start, t, noise):
        """What the network should output for `x_t = q_sample(x_start, t, noise)`."""
        if self.prediction == "noise":
            return ops.cast(noise, "float32")
        if self.prediction == "start":
            return ops.cast(x_start, "float32")
        return self.velocity(x_start, t, noise)

    def predict_start(self, x_t, t, output, clip_denoised=False):
        """The x̂₀ that a network's `output` stands for.

        Args:
            x_t: float tensor `(batch, ...)`.
            t: int32 tensor `(batch,)`.
            output: float tensor like `x_t`: noise, x₀ or v, as `prediction` says.
            clip_denoised: whether to clip x̂₀ to [-1, 1], the range of images; a float in (0, 1)
                is dynamic thresholding, see `clip_start`.

        Returns:
            float32 tensor like `x_t`.
        """
        if self.prediction == "noise":
            x_start = self.predict_start_from_noise(x_t, t, output)
        elif self.prediction == "start":
            x_start = ops.cast(output, "float32")
        else:
            x_start = self.predict_start_from_velocity(x_t, t, output)
        return clip_start(x_start, clip_denoised)

    def p_mean_variance(self, output, x_t, t, clip_denoised=False):
        """Mean, variance, log-variance of p(x_{t−1} | x_t), and x̂₀: eq. 1, 11 and section 3.2.

        The mean is the posterior's (eq. 7) with the network's x̂₀ in the place of x₀.

        Args:
            output: float tensor like `x_t`, what the network said of `(x_t, t)`.
            x_t: float tensor `(batch, ...)`.
            t: int32 tensor `(batch,)`.
            clip_denoised: as for `predict_start`.

        Returns:
            Four float32 tensors: the mean, variance and log-variance `(batch, 1, ...)`, x̂₀.
        """
        x_start = self.predict_start(x_t, t, output, clip_denoised)
        mean, _, _ = self.q_posterior_mean_variance(x_start, x_t, t)
        return (
            mean,
            self._at("model_variance", t, x_t),
            self._at("model_log_variance", t, x_t),
            x_start,
        )

    def p_sample(self, output, x_t, t, noise, clip_denoised=False):
        """One ancestral step x_t → x_{t−1}, algorithm 2. No noise is added at `t = 0`."""
        mean, _, log_variance, _ = self.p_mean_variance(output, x_t, t, clip_denoised)
        is_last = ops.reshape(ops.equal(t, 0), ops.shape(log_variance))
        noise = ops.where(is_last, 0.0, ops.cast(noise, "float32"))
        return mean + ops.exp(0.5 * log_variance) * noise

    def _at(self, table, t, x):
        """Entries `t` of a table as float32 `(batch, 1, ...)`, to broadcast against `x`."""
        table = ops.convert_to_tensor(getattr(self, table).astype("float32"))
        return ops.reshape(ops.take(table, t, axis=0), (-1,) + (1,) * (len(x.shape) - 1))

    def get_config(self):
        config = {"prediction": self.prediction, "variance": self.variance}
        if self._custom_betas:
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
    def from_config(cls, config):
        return cls(**config)
