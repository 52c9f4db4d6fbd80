"""Samplers on Gaussian data, whose exact denoiser is known: their noise, and their orders."""

from dataclasses import replace

import numpy as np
import pytest
from keras import ops
from tools import to_numpy

from keras_ddpm import DDIM, DDPM, DPMSolverPlusPlus, GaussianDiffusion, Heun, sample

MEAN, STD = 0.7, 0.3
NOISE = np.random.default_rng(1).standard_normal((16, 50)).astype("float32")
PLAN = (19, 12, 7, 3, 0)


def exact_denoiser(diffusion):
    """E[x_0 | x_t] = gain x_t + offset for x_0 ~ N(MEAN, STD^2)."""
    signal = diffusion.alphas_cumprod
    gain = np.sqrt(signal) * STD**2 / (signal * STD**2 + 1 - signal)
    table = np.stack([gain, MEAN - gain * np.sqrt(signal) * MEAN], 1)
    table = ops.convert_to_tensor(table.astype("float32"))

    def denoise(x_t, t):
        gain, offset = ops.split(ops.take(table, t, axis=0), 2, axis=1)
        return gain * x_t + offset

    return denoise


def process(variance="posterior"):
    """A short diffusion and its denoiser."""
    diffusion = GaussianDiffusion(20, "cosine", prediction="start", variance=variance)
    return exact_denoiser(diffusion), diffusion


@pytest.fixture
def draws(monkeypatch):
    """x_T and the noise of each step of `PLAN`, which samplers get."""
    draws = np.random.default_rng(0).standard_normal((len(PLAN) + 1, 3, 4)).astype("float32")
    table = ops.convert_to_tensor(draws[1:])
    monkeypatch.setattr(
        "keras_ddpm.samplers.loop.step_noise", lambda seeds, i, shape: ops.take(table, i, axis=0)
    )
    return draws


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_sampling_repeats_p_sample_of_the_diffusion_through_its_plan(variance, draws):
    """A subset of the timesteps is a diffusion too: Nichol & Dhariwal (2021), eq. 19."""
    denoiser, diffusion = process(variance)
    signal = diffusion.alphas_cumprod[list(PLAN)[::-1]]
    betas = 1 - signal / np.append(1.0, signal[:-1])
    short = GaussianDiffusion(betas=betas, prediction="start", variance=variance)
    found = sample(denoiser, diffusion, draws[0], DDPM(timesteps=PLAN), clip_denoised=True)
    x = ops.convert_to_tensor(draws[0])
    for i, t in enumerate(PLAN):
        here, output = np.full(3, len(PLAN) - 1 - i, "int32"), denoiser(x, np.full(3, t, "int32"))
        x = short.p_sample(output, x, here, draws[1 + i], clip_denoised=True)
    np.testing.assert_allclose(to_numpy(found), to_numpy(x), atol=1e-5)


def test_the_noise_of_ddim_is_that_of_ddpm_and_dpm_solver_differs_by_its_memory(draws):
    def run(sampler, plan):
        return to_numpy(sample(*process(), draws[0], replace(sampler, timesteps=plan)))

    np.testing.assert_allclose(run(DDIM(eta=1.0), PLAN), run(DDPM(), PLAN), atol=1e-5)
    # The first step and the last have no memory.
    two_steps = PLAN[1:3]
    expected = run(DDIM(eta=0.5), two_steps)
    np.testing.assert_allclose(run(DPMSolverPlusPlus(eta=0.5), two_steps), expected, atol=1e-5)
    assert np.abs(expected - run(DDIM(), two_steps)).max() > 0.01
    assert np.abs(run(DPMSolverPlusPlus(eta=0.5), PLAN) - run(DDIM(eta=0.5), PLAN)).max() > 1e-3


@pytest.mark.once
def test_coefficients_are_those_of_the_papers():
    """Song et al. (2021), eq. 12 and 16; Lu et al. (2022), algorithm 2 and SDE-DPM-Solver++ 2M."""
    _, diffusion = process()
    a = np.append(diffusion.alphas_cumprod[list(PLAN)], 1.0)
    added = 0.3 * np.sqrt((1 - a[1:]) / (1 - a[:-1])) * np.sqrt(1 - a[:-1] / a[1:])
    kept = np.sqrt(1 - a[1:] - added**2)
    c = DDIM(eta=0.3).coefficients(diffusion, np.array(PLAN))
    np.testing.assert_allclose([c["noise"], c["direction"]], [added, kept], rtol=1e-9)
    rate, noise = np.sqrt(a[:-1]), np.sqrt(1 - a[:-1])
    h = np.diff(np.log(rate / noise))
    for eta in (0, 1):  # the last step, to the image, has h = inf
        c = DPMSolverPlusPlus(eta=float(eta)).coefficients(diffusion, np.array(PLAN))
        np.testing.assert_allclose(c["x_t"][:-1], noise[1:] / noise[:-1] * np.exp(-eta * h))
        np.testing.assert_allclose(c["start"][:-1], -rate[1:] * np.expm1(-(1 + eta) * h))
        np.testing.assert_allclose(c["noise"][:-1], eta * noise[1:] * np.sqrt(-np.expm1(-2 * h)))
        np.testing.assert_allclose(c["memory"], [0, *(h[1:] / h[:-1] / 2), 0])


def test_flow_matching_and_ddim_walk_the_same_path():
    """Euler's method on dx/ds = ϵ̂ − x̂₀ in float64, and the exact end, MEAN + STD · noise."""
    diffusion, errors = GaussianDiffusion(1000, "flow", prediction="start"), []
    for steps in (100, 200):
        x = NOISE.astype("float64")
        for s, s_next in zip(*(np.linspace(1, 0, steps + 1)[i : i + steps] for i in (0, 1))):
            # E[x₀ | x] where x = (1 − s) x₀ + s ϵ and x₀ ~ N(MEAN, STD²).
            gain = (1 - s) * STD**2 / ((1 - s) ** 2 * STD**2 + s**2)
            start = MEAN + gain * (x - (1 - s) * MEAN)
            x = x + (s_next - s) * (x - start) / s
        found = to_numpy(sample(exact_denoiser(diffusion), diffusion, NOISE, DDIM(steps)))
        np.testing.assert_allclose(found, x, atol=1e-5)
        errors.append(np.abs(found - MEAN - STD * NOISE).max())
    assert errors[1] < 0.02 and errors[0] / errors[1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm_solver++", 2), ("heun", 2)])
def test_order_of_convergence_of_samples(sampler, order, is_even):
    """To the probability flow, where y = x / signal keeps (y - MEAN) / sqrt(STD² + σ²).

    In steps that are even in the log-SNR, or of which every second one is twice as long.
    """
    # noise / signal falls from 157 to 0.01 by one factor.
    signal = 1 / (1 + np.geomspace(0.01, 157, 481) ** 2)
    betas = 1 - signal / np.append(1.0, signal[:-1])
    diffusion = GaussianDiffusion(betas=betas, prediction="start")
    denoiser = exact_denoiser(diffusion)
    sigma, noise = np.sqrt(1 / diffusion.alphas_cumprod - 1), NOISE.astype("float64")
    y = noise / np.sqrt(diffusion.alphas_cumprod[-1]) - MEAN
    y = MEAN + y * np.sqrt((STD**2 + sigma[0] ** 2) / (STD**2 + sigma[-1] ** 2))
    exact, steps, errors = y * np.sqrt(diffusion.alphas_cumprod[0]), (20, 40, 80, 160), []
    for n in steps:
        # The last of the n + 1 steps goes from t = 0 to the image, and is left out.
        plan = np.linspace(480, 0, n + 1).astype(int)
        if not is_even:
            plan[1::2] += 160 // n
        options = {"timesteps": plan, "return_trajectory": [n]}
        _, trajectory = sample(denoiser, diffusion, noise, sampler, **options)
        errors.append(np.sqrt(np.mean((trajectory.x_t[0] - exact) ** 2)))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.2)


def test_heun_has_half_the_error_of_ddim_at_few_steps_of_a_cosine_schedule():
    """Its first step, from noise / signal = 20 000, must not be corrected."""
    diffusion = GaussianDiffusion(1000, "cosine", prediction="start")
    denoiser, errors = exact_denoiser(diffusion), {}
    for sampler in (DDIM, Heun):
        x = sample(denoiser, diffusion, NOISE, sampler(steps=12, spacing="linspace"))
        errors[sampler] = np.sqrt(np.mean((to_numpy(x) - MEAN - STD * NOISE) ** 2))
    assert errors[Heun] < errors[DDIM] / 2


@pytest.mark.once
def test_heun_corrects_no_step_that_grows_the_signal_by_more_than_its_limit():
    """Here the signal grows by 5, by 3 and by 2, and the step to the image is never corrected."""
    signal = np.array([0.9, 0.45, 0.15, 0.03]) ** 2
    diffusion = GaussianDiffusion(betas=1 - signal / np.append(1.0, signal[:-1]))
    for sampler, corrected in (
        (Heun(), [False, True, True, False]),
        (Heun(max_growth=2.5), [False, False, True, False]),
        (Heun(max_growth=np.inf), [True, True, True, False]),
    ):
        c = sampler.coefficients(diffusion, np.arange(4)[::-1])
        assert (c["correction"] < 0).tolist() == corrected
