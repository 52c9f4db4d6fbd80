"""Tables over the timesteps in float64: the betas of a forward process, and loss weights."""

import warnings

import numpy as np

from keras_ddpm.validation import check_number

MAX_FINAL_SIGNAL = 0.005  # of the variance in x_T; sampling starts from pure noise


def linear_betas(timesteps, beta_start=1e-4, beta_end=0.02) -> np.ndarray:
    """Evenly spaced betas, float64 `(timesteps,)`: Ho et al. (2020), section 4.

    The end points of the paper belong to 1000 steps. Fewer steps with the same end points leave
    part of the image in x_T.

    >>> linear_betas(1000)[[0, -1]]
    array([0.0001, 0.02  ])
    """
    return np.linspace(beta_start, beta_end, timesteps, dtype="float64")


def cosine_betas(timesteps, offset=0.008, max_beta=0.999) -> np.ndarray:
    """Betas whose cumulative signal follows a squared cosine: Nichol & Dhariwal (2021), eq. 17.

    This schedule destroys an image more slowly than the linear one, which suits small images.
    `offset` is the paper's s; `max_beta` limits the last betas, where the cosine reaches zero.

    >>> cosine_betas(1000)[[0, -1]].round(6)
    array([4.10e-05, 9.99e-01])
    """
    steps = np.arange(timesteps + 1, dtype="float64") / timesteps
    # ᾱ(t) = f(t) / f(0),  f(t) = cos²( (t/T + s) / (1 + s) · π/2 )
    signal = np.cos((steps + offset) / (1 + offset) * np.pi / 2) ** 2
    # β_t = 1 − ᾱ_t / ᾱ_{t−1}
    return np.minimum(1 - signal[1:] / signal[:-1], max_beta)


def flow_betas(timesteps) -> np.ndarray:
    """Betas of flow matching: Lipman et al. (2023), the straight path of rectified flow.

    The path (1 − s) x₀ + s ϵ, divided by √((1 − s)² + s²), is an x_t with
    ᾱ = (1 − s)² / ((1 − s)² + s²). Here s = (t + 1) / T, so that x_T is pure noise. A step of DDIM
    at η = 0 is, before that division, one of Euler's method along the velocity ϵ̂ − x̂₀.

    >>> flow_betas(4).round(3)  # ᾱ = 0.9, 0.5, 0.1, 0
    array([0.1  , 0.444, 0.8  , 1.   ])
    """
    s = np.arange(timesteps + 1, dtype="float64") / timesteps
    signal = (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
    return 1 - signal[1:] / signal[:-1]  # β_t = 1 − ᾱ_t / ᾱ_{t−1}


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas, "flow": flow_betas}


def zero_terminal_snr_betas(betas) -> np.ndarray:
    """Rescales betas so that x_T holds no signal: Lin et al. (2024), algorithm 1.

    √ᾱ is shifted until its last entry is 0, then scaled until its first entry is as before. The
    last beta becomes 1.
    """
    if len(betas) < 2:
        raise ValueError("zero_terminal_snr=True needs at least 2 timesteps, got 1.")
    rate = np.sqrt(np.cumprod(1 - betas))  # √ᾱ_t
    rate = (rate - rate[-1]) * rate[0] / (rate[0] - rate[-1])
    signal = rate**2
    return 1 - signal / np.append(1.0, signal[:-1])  # β_t = 1 − ᾱ_t / ᾱ_{t−1}


def check_betas(betas) -> np.ndarray:
    """Returns betas as a float64 array if each is the variance of a step."""
    array = np.array(betas)
    if array.ndim != 1 or array.size < 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"betas={betas!r} must be a 1-D sequence of floats.")
    betas = array.astype("float64")
    wrong = ~((betas > 0) & (betas < 1))  # true for NaN as well
    wrong[-1] = not 0 < betas[-1] <= 1
    if wrong.any():
        step = int(np.argmax(wrong))
        raise ValueError(f"betas[{step}]={betas[step]} must lie in (0, 1); only the last may be 1.")
    return betas


def warn_if_signal_remains(alphas_cumprod):
    """Warns of a schedule that ends before the image is gone, since sampling starts from noise."""
    remaining, scale = alphas_cumprod[-1], 1000 / len(alphas_cumprod)
    if remaining > MAX_FINAL_SIGNAL:
        warnings.warn(
            f"timesteps={len(alphas_cumprod)}: this schedule keeps {remaining:.2g} of the signal's "
            "variance at its last step, but sampling starts from pure noise. Use "
            "schedule='cosine', or timesteps=1000, or betas scaled to the number of steps: "
            f"beta_start={1e-4 * scale:.2g}, beta_end={min(0.02 * scale, 0.999):.3g}.",
            stacklevel=3,
        )


def min_snr_weights(diffusion, gamma: float = 5.0) -> np.ndarray:
    """Loss weights per timestep, float64 `(timesteps,)`: min-SNR-γ, Hang et al. (2023), eq. 6.

    The squared error of x̂₀ is weighted with min(SNR, γ). A squared error of ϵ̂ is one of x̂₀ times
    SNR, and one of v̂ is one of x̂₀ times SNR + 1, so their weights are divided by that.

    >>> min_snr_weights(GaussianDiffusion(1000, prediction="noise"))[[0, 999]].round(4)
    array([5.e-04, 1.e+00])
    """
    check_number("min_snr_gamma", gamma, "(0, inf)")
    snr = diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)
    if diffusion.prediction == "noise":
        return np.minimum(gamma / snr, 1)
    if diffusion.prediction == "start":
        return np.minimum(snr, gamma)
    return np.minimum(snr, gamma) / (snr + 1)
