"""DPM-Solver++ 2M: Lu et al. (2022), "DPM-Solver++", algorithm 2, and its random form."""

import numpy as np

from keras_ddpm.samplers.base import SamplerWithEta, signal_levels


class DPMSolverPlusPlus(SamplerWithEta):
    """Second order at one network evaluation a step, because it remembers the x̂₀ before.

    It solves the same equation as DDIM at η = 0, exactly in its linear part, and follows x̂₀ along
    a straight line in λ = log(√ᾱ / √(1 − ᾱ)), half the log-SNR.

    With η it adds as much fresh noise as DDIM does, and is DDIM wherever it remembers nothing. At
    η = 1 it is SDE-DPM-Solver++ 2M, the paper's solver of the diffusion's own SDE.

    Args:
        eta: float >= 0, how much fresh noise a step adds: 0 none, 1 as much as DDPM.
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
        added, kept = self.noise_levels(signal, next_signal)
        # With α = √ᾱ and σ = √(1 − ᾱ): σ_s / σ_t at η = 0, and (σ_s / σ_t) e^{−h} at η = 1.
        from_x = kept / np.sqrt(1 - signal)
        # α_s (1 − e^{−h}) at η = 0, and α_s (1 − e^{−2h}) at η = 1.
        from_start = np.sqrt(next_signal) - np.sqrt(signal) * from_x
        return {"x_t": from_x, "start": from_start, "memory": memory, "noise": added}

    def step(self, denoise, x_t, c, now):
        x_start, _ = denoise(x_t, now.t)
        # D = (1 + 1/(2r)) x̂₀ − 1/(2r) x̂₀_before: x̂₀ extrapolated to the middle of the step.
        middle = x_start + c["memory"] * (x_start - now.previous_start)
        x_next = c["x_t"] * x_t + c["start"] * middle
        if self.is_stochastic:
            x_next += c["noise"] * now.noise
        return x_next, x_start
