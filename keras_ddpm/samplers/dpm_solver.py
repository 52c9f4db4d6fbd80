"""DPM-Solver++ 2M: Lu et al. (2022), "DPM-Solver++", algorithm 2."""

import numpy as np

from keras_ddpm.samplers.base import Sampler, signal_levels


class DPMSolverPlusPlus(Sampler):
    """Second order at one network evaluation a step, because it remembers the x̂₀ before.

    It solves the same equation as DDIM at η = 0, exactly in its linear part, and follows x̂₀ along
    a straight line in λ = log(√ᾱ / √(1 − ᾱ)), half the log-SNR.
    """

    def coefficients(self, diffusion, timesteps):
        signal, next_signal = signal_levels(diffusion, timesteps)
        with np.errstate(divide="ignore"):  # λ is -inf without any signal, +inf without noise
            half_log_snr = 0.5 * (np.log(signal) - np.log1p(-signal))
        h = np.diff(half_log_snr)  # h_i = λ_i − λ_{i−1}: how far a step goes
        # 1 / (2 r_i) with r_i = h_{i−1} / h_i. First order, that is 0, for the first step, which
        # remembers nothing, and for the last, whose h is infinite.
        memory = np.zeros(len(timesteps))
        memory[1:-1] = h[1:] / (2 * h[:-1])
        noise_ratio = np.sqrt((1 - next_signal) / (1 - signal))
        return {
            "x_t": noise_ratio,  # σ_s / σ_t
            "start": np.sqrt(next_signal) - np.sqrt(signal) * noise_ratio,  # −α_s (e^{−h} − 1)
            "memory": memory,
        }

    def step(self, denoise, x_t, c, now):
        x_start, _ = denoise(x_t, now.t)
        # D = (1 + 1/(2r)) x̂₀ − 1/(2r) x̂₀_before: x̂₀ extrapolated to the middle of the step.
        middle = x_start + c["memory"] * (x_start - now.previous_start)
        return c["x_t"] * x_t + c["start"] * middle, x_start
