"""Every sampler against exact solutions: how fast it approaches them, and what it draws."""

import numpy as np
import pytest
from conftest import to_numpy
from keras import ops

from keras_ddpm import GaussianDiffusion, OptimalDenoiser, sample
from keras_ddpm.samplers import SAMPLERS, make_sampler
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.seeds import step_seeds

MEAN, STD = 0.7, 0.3
LARGEST, SMALLEST = 157.0, 0.01  # σ = √(1 − ᾱ) / √ᾱ at both ends, as in the linear schedule
TIMESTEPS = 481  # 480 intervals, which 20, 40, 80 and 160 divide


def geometric_diffusion():
    """σ falls by the same factor from each timestep to the next: equal steps in log-SNR."""
    sigma = np.geomspace(SMALLEST, LARGEST, TIMESTEPS)
    signal = 1 / (1 + sigma**2)
    return GaussianDiffusion(betas=1 - signal / np.append(1.0, signal[:-1]), prediction="start")


def gaussian_denoiser(diffusion):
    """E[x₀ | x_t] for x₀ ~ N(MEAN, STD²)."""
    signal = ops.convert_to_tensor(diffusion.alphas_cumprod.astype("float32"))

    def denoise(x_t, t):
        a = ops.reshape(ops.take(signal, t), (-1, 1))
        return MEAN + ops.sqrt(a) * STD**2 / (a * STD**2 + 1 - a) * (x_t - ops.sqrt(a) * MEAN)

    return denoise


def state_at_zero(diffusion, sampler, steps, noise):
    """x at t = 0, after `steps` steps: the step from there to the image is left out."""
    timesteps = np.linspace(TIMESTEPS - 1, 0, steps + 1).round().astype("int32")
    loop = SamplingLoop(gaussian_denoiser(diffusion), diffusion)
    seeds = step_seeds(0, len(noise), steps + 1)
    noise = ops.convert_to_tensor(noise)
    _, [(x, _)] = loop(noise, make_sampler(sampler), timesteps, seeds, frames=[steps])
    return x


def exact_state_at_zero(diffusion, noise):
    """The probability flow of Gaussian data: y = x/√ᾱ keeps (y − MEAN) / √(STD² + σ²)."""
    sigma = np.sqrt(1 / diffusion.alphas_cumprod - 1)
    y = noise.astype("float64") / np.sqrt(diffusion.alphas_cumprod[-1])
    y = MEAN + (y - MEAN) * np.sqrt((STD**2 + sigma[0] ** 2) / (STD**2 + sigma[-1] ** 2))
    return y * np.sqrt(diffusion.alphas_cumprod[0])


@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm_solver++", 2), ("heun", 2)])
def test_order_of_convergence(sampler, order):
    diffusion = geometric_diffusion()
    noise = np.random.default_rng(0).standard_normal((4, 50)).astype("float32")
    exact = exact_state_at_zero(diffusion, noise)
    steps = np.array([20, 40, 80, 160])
    errors = [
        np.sqrt(np.mean((state_at_zero(diffusion, sampler, n, noise) - exact) ** 2)) for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.2)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_heun_pays_at_few_steps_of_every_schedule(schedule):
    """A cosine schedule begins with σ = 20 000: Heun's method must not average over that."""
    diffusion = GaussianDiffusion(1000, schedule, prediction="start")
    noise = np.random.default_rng(0).standard_normal((4, 50)).astype("float32")
    denoiser, exact = gaussian_denoiser(diffusion), MEAN + STD * noise

    def error(sampler):
        x = sample(denoiser, diffusion, noise, sampler, steps=12, spacing="linspace")
        return np.sqrt(np.mean((to_numpy(x) - exact) ** 2))

    assert error("heun") < error("ddim") / 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_starts_from_a_timestep_without_any_signal(sampler):
    diffusion = GaussianDiffusion(200, prediction="velocity", zero_terminal_snr=True)
    noise = np.random.default_rng(0).standard_normal((4, 2)).astype("float32")
    point = np.float32([[0.3, -0.6]])
    for spacing in ("linspace", "trailing", "logsnr"):
        x = sample(
            OptimalDenoiser(point, diffusion), diffusion, noise, sampler, 12, spacing=spacing
        )
        np.testing.assert_allclose(to_numpy(x), np.repeat(point, 4, axis=0), atol=1e-4)


# ---- a mixture of two Gaussians in the plane ----------------------------------------------------

WEIGHTS = np.array([0.3, 0.7])
CENTRES = np.array([[-1.0, 0.5], [0.8, -0.4]])
SPREAD = 0.2


def draw_mixture(count, rng):
    centres = CENTRES[rng.choice(2, count, p=WEIGHTS)]
    return centres + SPREAD * rng.standard_normal((count, 2))


def mixture_denoiser(diffusion):
    """E[x₀ | x_t]: each mode's posterior mean, weighted by the mode's posterior probability."""
    signal = ops.convert_to_tensor(diffusion.alphas_cumprod.astype("float32"))
    centres = ops.convert_to_tensor(CENTRES.astype("float32"))
    log_weights = ops.convert_to_tensor(np.log(WEIGHTS).astype("float32"))

    def denoise(x_t, t):
        a = ops.reshape(ops.take(signal, t), (-1, 1, 1, 1))
        variance = a * SPREAD**2 + 1 - a  # of x_t, given the mode
        gap = ops.expand_dims(x_t, -2) - ops.sqrt(a) * centres  # (batch, points, modes, 2)
        mode = ops.softmax(log_weights - ops.sum(gap**2, -1) / (2 * variance[..., 0]))
        mean = centres + ops.sqrt(a) * SPREAD**2 / variance * gap
        return ops.sum(ops.expand_dims(mode, -1) * mean, -2)

    return denoise


def sliced_wasserstein(a, b, directions=32):
    """Mean over directions of the distance between the two sets' projections, sorted."""
    angle = np.arange(directions) * np.pi / directions
    axes = np.stack([np.cos(angle), np.sin(angle)])
    return np.abs(np.sort(a @ axes, 0) - np.sort(b @ axes, 0)).mean()


@pytest.mark.parametrize(
    "sampler, steps", [("ddpm", 500), ("ddim", 500), ("dpm_solver++", 60), ("heun", 60)]
)
def test_samples_of_a_mixture_have_its_distribution(sampler, steps):
    diffusion = GaussianDiffusion(500, "cosine", prediction="start")
    rng = np.random.default_rng(0)
    # The step noise is drawn image by image: few "images" of many points each are quickest.
    noise = rng.standard_normal((8, 500, 2)).astype("float32")
    x = sample(
        mixture_denoiser(diffusion), diffusion, noise, sampler, steps, spacing="logsnr", seed=1
    )
    x = to_numpy(x).reshape(-1, 2).astype("float64")
    n = len(x)

    # Within five standard errors of the exact moments: a false alarm once in two million.
    share = np.mean(x[:, 0] < 0)  # the modes lie ten standard deviations apart
    assert abs(share - WEIGHTS[0]) < 5 * np.sqrt(WEIGHTS.prod() / n)
    for is_mode, centre in ((x[:, 0] < 0, CENTRES[0]), (x[:, 0] >= 0, CENTRES[1])):
        points = x[is_mode]
        assert (abs(points.mean(0) - centre) < 5 * SPREAD / np.sqrt(len(points))).all()
        error = SPREAD**2 * np.sqrt(2 / len(points))
        assert (abs(points.var(0) - SPREAD**2) < 5 * error).all()

    # As far from fresh draws as fresh draws are from one another.
    fresh = [draw_mixture(n, rng) for _ in range(20)]
    usual = [sliced_wasserstein(a, b) for a, b in zip(fresh[:-1], fresh[1:])]
    found = np.mean([sliced_wasserstein(x, a) for a in fresh])
    assert found < np.mean(usual) + 4 * np.std(usual)
    assert sliced_wasserstein(x + [0.1, 0], fresh[0]) > np.mean(usual) + 4 * np.std(usual)
