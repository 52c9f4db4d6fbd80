"""DPM-Solver++ 2M: Lu et al. (2022), "DPM-Solver++", algorithm 2, and its stochastic form.

λ = log(√ᾱ / √(1 − ᾱ)),  h = λ_s − λ_t,  r = h_before / h
D = (1 + 1/(2r)) x̂₀ − 1/(2r) x̂₀_before
x_s = √(1 − ᾱ_s)/√(1 − ᾱ_t) x_t + √ᾱ_s (1 − e^{−h}) D                  (η = 0)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_ddpm.samplers.base import SamplerWithEta, signal_levels


@dataclass(frozen=True)
class DPMSolverPlusPlus(SamplerWithEta):
    """Second order with one network evaluation a step, because it uses the x̂₀ of the step before.

    It solves the same equation as DDIM at η = 0, exactly in its linear part, and takes x̂₀ as
    linear in λ, half the log-SNR. With η it adds as much fresh noise as DDIM. At η = 1 it is
    SDE-DPM-Solver++ 2M, the paper's solver of the stochastic equation.

    Args:
        steps, spacing, timesteps: see `Sampler`.
        eta: float >= 0, the amount of fresh noise: 0 is deterministic, 1 adds as much as DDPM.

    >>> DPMSolverPlusPlus(steps=20).eta
    0.0
    """

    is_second_order: ClassVar[bool] = True

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        with np.errstate(divide="ignore"):  # λ is -inf without any signal, +inf without noise
            half_log_snr = 0.5 * (np.log(signal) - np.log1p(-signal))
        h = np.diff(half_log_snr)  # h_i = λ_i − λ_{i−1}
        # 1 / (2 r_i) with r_i = h_{i−1} / h_i. It is 0, which is first order, in the first step,
        # which has no step before, and in the last, whose h is infinite.
        memory = np.zeros(len(timesteps))
        memory[1:-1] = h[1:] / (2 * h[:-1])
        added, kept = self.noise_levels(signal, next_signal)
        # With α = √ᾱ and σ = √(1 − ᾱ): σ_s / σ_t at η = 0, and (σ_s / σ_t) e^{−h} at η = 1.
        from_x = kept / np.sqrt(1 - signal)
        # α_s (1 − e^{−h}) at η = 0, and α_s (1 − e^{−2h}) at η = 1.
        from_start = np.sqrt(next_signal) - np.sqrt(signal) * from_x
        return {"x_t": from_x, "start": from_start, "memory": memory, "noise": added}

    def step(self, denoise, x_t, c, inputs):
        x_start, _ = denoise(x_t, inputs.t)
        middle = x_start + c["memory"] * (x_start - inputs.previous_start)  # D
        x_next = c["x_t"] * x_t + c["start"] * middle
        if self.is_stochastic:
            x_next += c["noise"] * inputs.noise
        return x_next, x_start
