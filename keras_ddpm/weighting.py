"""Which timesteps the loss listens to."""

import numbers

import numpy as np


def min_snr_weights(diffusion, gamma=5.0):
    """Min-SNR-γ: no timestep counts more for x₀ than one with a signal-to-noise ratio of γ.

    Hang et al. (2023), eq. 6: the squared error of x̂₀ is weighted with min(SNR, γ). A squared
    error of ϵ̂ is one of x̂₀ times SNR, one of v̂ is one of x̂₀ times SNR + 1, so their weights are
    divided by that.

    Args:
        diffusion: a `GaussianDiffusion`.
        gamma: float > 0; the paper's choice is 5.

    Returns:
        float64 array `(timesteps,)`, a sample weight for each timestep.

    Raises:
        ValueError: if `gamma` is not a positive number.

    Example:

    >>> min_snr_weights(GaussianDiffusion(1000, prediction="noise"))[[0, 999]].round(4)
    array([5.e-04, 1.e+00])
    """
    if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real) or not 0 < gamma < np.inf:
        raise ValueError(f"min_snr_gamma={gamma!r} must be a positive number, such as 5.")
    snr = diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)
    if diffusion.prediction == "noise":
        return np.minimum(gamma / snr, 1)
    if diffusion.prediction == "start":
        return np.minimum(snr, gamma)
    return np.minimum(snr, gamma) / (snr + 1)
