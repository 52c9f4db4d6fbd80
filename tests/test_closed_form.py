"""Sampling Gaussian data, whose exact denoiser is known, against formulas for the chain."""

import keras
import numpy as np
import pytest
from conftest import to_numpy
from keras import ops

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm.samplers import DDIM, DDPM, DPMSolverPlusPlus

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


class PairOfGaussians:
    """x_t and the x̂₀ of the step before, jointly Gaussian: what a multistep method walks with."""

    def __init__(self):
        self.mean, self.covariance = np.zeros(2), np.diag([1.0, 0.0])

    def step(self, gain, offset, from_x, from_start, added, memory=0.0):
        """x_s = from_x x_t + from_start ((1 + memory) x̂₀ − memory x̂₀_before) + noise.

        With x̂₀ = gain x_t + offset; `added` is the variance of the noise.
        """
        start = np.array([gain, 0.0])
        x = from_x * np.array([1, 0]) + from_start * np.array([(1 + memory) * gain, -memory])
        matrix = np.stack([x, start])
        self.mean = matrix @ self.mean + [from_start * (1 + memory) * offset, offset]
        self.covariance = matrix @ self.covariance @ matrix.T + np.diag([added, 0.0])

    @property
    def moments(self):
        return self.mean[0], self.covariance[0, 0]


def gain_and_offset(a):
    """E[x_0 | x_t] = offset + gain x_t at ᾱ = a."""
    gain = np.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
    return gain, MEAN - gain * np.sqrt(a) * MEAN


def chain(diffusion, timesteps, sampler, eta=0.0):
    """Mean and variance of the sampler's Gaussian chain in float64, from Bayes' rule alone."""
    pair = PairOfGaussians()
    signals = [*diffusion.alphas_cumprod[timesteps], 1.0]
    h_before = None
    for i, (a, b) in enumerate(zip(signals, signals[1:])):
        memory = 0.0
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
        if sampler == "dpm_solver++" and b < 1:  # x̂₀ on a straight line in the log-SNR
            h = np.log(b / (1 - b)) - np.log(a / (1 - a))
            memory = h / h_before / 2 if h_before else 0.0
            h_before = h
        pair.step(*gain_and_offset(a), from_x, from_start, added, memory)
    return pair.moments


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
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver++"])
def test_samplers_with_eta_follow_the_chain_of_gaussians(sampler, eta, timesteps):
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    x = sample(exact_denoiser(d), d, noise, sampler, timesteps=timesteps, eta=eta, seed=2)
    assert_moments(to_numpy(x), *chain(d, timesteps, sampler, eta))


def test_ddim_with_eta_one_is_ancestral_sampling():
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = np.random.default_rng(1).standard_normal((4, 5)).astype("float32")
    kwargs = {"timesteps": [19, 12, 7, 3, 0], "seed": 2}
    denoiser = exact_denoiser(d)
    ddim = sample(denoiser, d, noise, sampler="ddim", eta=1.0, **kwargs)
    ddpm = sample(denoiser, d, noise, sampler="ddpm", **kwargs)
    np.testing.assert_allclose(to_numpy(ddim), to_numpy(ddpm), atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dpm_solver_is_ddim_where_it_remembers_nothing(eta):
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = np.random.default_rng(1).standard_normal((4, 5)).astype("float32")
    options = {"timesteps": [19, 8], "eta": eta, "seed": 2}  # its first step and its last
    ddim, dpm = (
        sample(exact_denoiser(d), d, noise, s, **options) for s in ("ddim", "dpm_solver++")
    )
    np.testing.assert_allclose(to_numpy(dpm), to_numpy(ddim), atol=1e-5)


def chain_of_the_package(sampler, d, steps):
    """The same recursion with the sampler's own coefficients, in float64."""
    c = {name: list(values) for name, values in sampler.coefficients(d, steps).items()}
    pair = PairOfGaussians()
    for i, t in enumerate(steps):
        a = d.alphas_cumprod[t]
        if "x_t" in c:
            from_x, from_start = c["x_t"][i], c["start"][i]
        else:
            from_x = c["direction"][i] / np.sqrt(1 - a)
            from_start = c["start"][i] - from_x * np.sqrt(a)
        memory = c["memory"][i] if "memory" in c else 0.0
        pair.step(*gain_and_offset(a), from_x, from_start, c["noise"][i] ** 2, memory)
        yield pair.moments


@pytest.mark.parametrize("sampler", [DDPM(), DDIM()], ids=["ddpm", "ddim"])
def test_the_error_of_the_variance_halves_when_the_steps_double(sampler):
    gaps = []
    for n in [200 * 2**k for k in range(7)]:
        d = GaussianDiffusion(n, beta_start=1e-4 * 1000 / n, beta_end=0.02 * 1000 / n)
        *_, (_, variance) = chain_of_the_package(sampler, d, np.arange(n)[::-1])
        gaps.append(abs(variance - STD**2))
    ratios = np.array(gaps[:-1]) / gaps[1:]
    assert (abs(ratios - 2) < 0.3).all()
    assert abs(ratios[-1] - 2) < 0.08 and abs(ratios[-1] - 2) <= abs(ratios[0] - 2)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_error_of_dpm_solver_with_noise_is_a_quarter_when_the_steps_double(eta):
    """σ falls by one factor from step to step, and t = 0, not the image, is the end."""
    gaps = []
    for n in (41, 81, 161, 321):
        signal = 1 / (1 + np.geomspace(0.01, 157, n) ** 2)
        d = GaussianDiffusion(betas=1 - signal / np.append(1.0, signal[:-1]), prediction="start")
        states = list(chain_of_the_package(DPMSolverPlusPlus(eta), d, np.arange(n)[::-1]))
        gaps.append(abs(states[-2][1] - (signal[0] * STD**2 + 1 - signal[0])))
    ratios = np.array(gaps[:-1]) / gaps[1:]
    assert (abs(ratios - 4) < 0.2).all()


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
