"""Sampling Gaussian data, whose exact denoiser is known, against formulas for the chain."""

import keras
import numpy as np
import pytest
from conftest import to_numpy
from keras import ops

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm.samplers import DDIM, DDPM

MEAN, STD = 0.7, 0.3
# The step noise is drawn image by image: few "images" of many points each are quickest.
SHAPE = (16, 2000)


def exact_denoiser(diffusion):
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2)."""
    signal = ops.convert_to_tensor(diffusion.alphas_cumprod.astype("float32"))

    def denoise(x_t, t):
        a = ops.reshape(ops.take(signal, t), (-1, 1))
        gain = ops.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
        return MEAN + gain * (x_t - ops.sqrt(a) * MEAN)

    return denoise


def chain(diffusion, timesteps, sampler, eta=0.0):
    """Mean and variance of the sampler's Gaussian chain in float64, from Bayes' rule alone."""
    mean, variance = 0.0, 1.0
    signals = [*diffusion.alphas_cumprod[timesteps], 1.0]
    for i, (a, b) in enumerate(zip(signals, signals[1:])):
        gain = np.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
        offset = MEAN - gain * np.sqrt(a) * MEAN  # x0 = offset + gain x_t
        if sampler == "ddpm" and i < len(timesteps) - 1:
            step = a / b  # q(x_t | x_s) has variance 1 - step; x_s | x0 has 1 - b
            precision = step / (1 - step) + 1 / (1 - b)
            from_x = np.sqrt(step) / (1 - step) / precision
            from_start = np.sqrt(b) / (1 - b) / precision
            added = 1 / precision if diffusion.variance == "posterior" else 1 - step
        elif sampler == "ddpm":
            from_x, from_start, added = 0.0, 1.0, 0.0
        else:  # walk along the predicted noise, with the rest fresh
            added = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            direction = np.sqrt(1 - b - added)
            from_x = direction / np.sqrt(1 - a)
            from_start = np.sqrt(b) - direction * np.sqrt(a) / np.sqrt(1 - a)
        factor = from_x + from_start * gain
        mean = factor * mean + from_start * offset
        variance = factor**2 * variance + added
    return mean, variance


def assert_moments(x, mean, variance, standard_errors=5):
    """Within five standard errors: a false alarm once in two million draws."""
    n = x.size
    assert abs(x.mean() - mean) < standard_errors * np.sqrt(variance / n)
    assert abs(x.var() - variance) < standard_errors * variance * np.sqrt(2 / n)


SUBSETS = [list(range(19, -1, -1)), [19, 12, 7, 3, 0], [19, 4], [15, 14, 2], [19]]


@pytest.mark.parametrize("timesteps", SUBSETS, ids=lambda s: f"{len(s)} steps")
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_sampling_follows_the_chain_of_gaussians(variance, timesteps):
    d = GaussianDiffusion(20, "cosine", prediction="start", variance=variance)
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    x = sample(exact_denoiser(d), d, noise, sampler="ddpm", timesteps=timesteps, seed=2)
    assert_moments(to_numpy(x), *chain(d, timesteps, "ddpm"))


@pytest.mark.parametrize("timesteps", SUBSETS[:3], ids=lambda s: f"{len(s)} steps")
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_follows_the_chain_of_gaussians(eta, timesteps):
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    x = sample(exact_denoiser(d), d, noise, timesteps=timesteps, eta=eta, seed=2)
    assert_moments(to_numpy(x), *chain(d, timesteps, "ddim", eta))


def test_ddim_with_eta_one_is_ancestral_sampling():
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = np.random.default_rng(1).standard_normal((4, 5)).astype("float32")
    kwargs = {"timesteps": [19, 12, 7, 3, 0], "seed": 2}
    denoiser = exact_denoiser(d)
    ddim = sample(denoiser, d, noise, sampler="ddim", eta=1.0, **kwargs)
    ddpm = sample(denoiser, d, noise, sampler="ddpm", **kwargs)
    np.testing.assert_allclose(to_numpy(ddim), to_numpy(ddpm), atol=1e-5)


def chain_of_the_package(sampler, timesteps):
    """The same recursion with the sampler's own coefficients, in float64."""
    scale = 1000 / timesteps
    d = GaussianDiffusion(timesteps, beta_start=1e-4 * scale, beta_end=0.02 * scale)
    steps = np.arange(timesteps)[::-1]
    c = sampler.coefficients(d, steps)
    mean, variance = 0.0, 1.0
    for i, t in enumerate(steps):
        a = d.alphas_cumprod[t]
        gain = np.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
        offset = MEAN - gain * np.sqrt(a) * MEAN
        if "x_t" in c:
            from_x, from_start, added = c["x_t"][i], c["start"][i], c["noise"][i]
        else:
            from_x = c["direction"][i] / np.sqrt(1 - a)
            from_start, added = c["start"][i] - from_x * np.sqrt(a), c["noise"][i]
        factor = from_x + from_start * gain
        mean, variance = factor * mean + from_start * offset, factor**2 * variance + added**2
    return mean, variance


@pytest.mark.parametrize("sampler", [DDPM(), DDIM()], ids=["ddpm", "ddim"])
def test_the_error_of_the_variance_halves_when_the_steps_double(sampler):
    sizes = [200 * 2**k for k in range(7)]
    gaps = [abs(chain_of_the_package(sampler, n)[1] - STD**2) for n in sizes]
    ratios = np.array(gaps[:-1]) / gaps[1:]
    assert (abs(ratios - 2) < 0.3).all()
    assert abs(ratios[-1] - 2) < 0.08 and abs(ratios[-1] - 2) <= abs(ratios[0] - 2)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_full_ancestral_sampling_is_p_sample_again_and_again(variance, monkeypatch):
    d = GaussianDiffusion(6, "cosine", prediction="start", variance=variance)
    draws = np.random.default_rng(0).standard_normal((7, 3, 4)).astype("float32")
    table = ops.convert_to_tensor(draws[1:])
    monkeypatch.setattr(
        "keras_ddpm.samplers.loop.step_noise", lambda seeds, i, shape: ops.take(table, i, axis=0)
    )
    denoiser = exact_denoiser(d)
    found = sample(denoiser, d, draws[0], sampler="ddpm", steps=6, clip_denoised=True)
    x = ops.convert_to_tensor(draws[0])
    for i, t in enumerate(range(5, -1, -1)):
        t = ops.full((3,), t, dtype="int32")
        x = d.p_sample(denoiser(x, t), x, t, draws[1 + i], clip_denoised=True)
    assert keras.backend.standardize_dtype(x.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(found), to_numpy(x), atol=1e-5)
