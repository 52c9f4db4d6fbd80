"""Each sampler on both sides: here, and in diffusers, each step of both kept.

Both sides get the same table of ᾱ, the same timesteps, the same noise and the same denoiser, and
diffusers computes in float64 what the package computes in float32. Where the two differ by design,
a comment at the adapter says how.
"""

import functools
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import to_numpy
from keras import ops

from keras_ddpm.samplers import DDIM, DDPM, DPMSolverPlusPlus, Heun
from keras_ddpm.samplers.loop import SamplingLoop

if keras.backend.backend() != "torch":
    pytest.skip("diffusers runs on PyTorch: use KERAS_BACKEND=torch", allow_module_level=True)
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers, the reference, is not installed")

SHAPE = (3, 4, 4, 2)
PREDICTION_TYPES = {"noise": "epsilon", "start": "sample", "velocity": "v_prediction"}
VARIANCE_TYPES = {"posterior": "fixed_small", "beta": "fixed_large"}
BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def draws(steps):
    """x_T, and the noise of every step."""
    return np.random.default_rng(3).standard_normal((steps + 1, *SHAPE)).astype("float32")


def exact_output(d, x_t, t):
    """What a perfect network says of a mixture of three Gaussians; float64 in, float64 out.

    The mixture is wide enough for x̂₀ to leave [-1, 1]. Its components compete, so the answer is
    neither linear in x_t nor made pixel by pixel, but gently: rounding is not to be amplified.
    """
    means = torch.tensor(np.random.default_rng(4).normal(0, 0.5, (3, 1, *SHAPE[1:])))
    std, a = 0.8, torch.tensor(d.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
    spread = a * std**2 + 1 - a  # variance of x_t within a component
    away = x_t - a.sqrt() * means
    share = torch.softmax((-(away**2) / (2 * spread)).sum((2, 3, 4)), 0)[..., None, None, None]
    start = (share * (means + a.sqrt() * std**2 / spread * away)).sum(0)
    noise = (x_t - a.sqrt() * start) / (1 - a).sqrt()
    velocity = a.sqrt() * noise - (1 - a).sqrt() * start
    return {"start": start, "noise": noise, "velocity": velocity}[d.prediction]


# ---- the package ------------------------------------------------------------------------


def ours(d, sampler, timesteps, clip=False):
    """x_t before every step and after the last, and the x̂₀ of every step."""
    steps = len(timesteps)
    noise = ops.convert_to_tensor(draws(steps))

    def denoiser(x_t, t):
        return exact_output(d, x_t.cpu().double(), t.cpu().long()).to(x_t)

    def step_noise(seeds, i, shape):
        return ops.take(noise, i + 1, axis=0)

    with mock.patch("keras_ddpm.samplers.loop.step_noise", step_noise):
        x, kept = SamplingLoop(denoiser, d)(
            noise[0],
            sampler,
            np.array(timesteps, "int32"),
            np.zeros(len(noise[0]), "uint32"),
            clip,
            frames=tuple(range(steps)),
        )
    return np.stack([x_t for x_t, _ in kept] + [to_numpy(x)]), np.stack([s for _, s in kept])


# ---- diffusers --------------------------------------------------------------------------


def scheduler_like(d, kind, **options):
    """A scheduler of diffusers with the diffusion's own table in float64 instead of float32."""
    if d.zero_terminal_snr:
        options["rescale_betas_zero_snr"] = True
    scheduler = kind(
        num_train_timesteps=d.timesteps,
        beta_schedule=BETA_SCHEDULES[d.schedule],
        beta_start=d.beta_start,
        beta_end=d.beta_end,
        prediction_type=PREDICTION_TYPES[d.prediction],
        **options,
    )
    np.testing.assert_allclose(scheduler.alphas_cumprod, d.alphas_cumprod, atol=1e-6)
    scheduler.betas = torch.tensor(d.betas)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.tensor(d.alphas_cumprod)
    return scheduler


def clipping(clip):
    """`clip_denoised` in the words of the DDPM and DDIM schedulers."""
    if clip is True or clip is False:
        return {"clip_sample": clip}
    # diffusers limits the percentile to `sample_max_value`, by default 1; the paper has no limit.
    return {
        "clip_sample": False,
        "thresholding": True,
        "dynamic_thresholding_ratio": clip,
        "sample_max_value": 1e9,
    }


def theirs_ddpm(d, timesteps, clip=False, noise_at_last_step=False):
    """Algorithm 2 of Ho et al.

    At the last listed timestep, diffusers still adds noise unless that is t = 0. The package
    calls whatever comes after the list the clean image and adds none. With "posterior" these are
    the same, β̃ is 0 there (diffusers says 1e-20); with "beta" they differ by √β z.
    """
    noise = torch.tensor(draws(len(timesteps))).double()
    scheduler = scheduler_like(
        d, diffusers.DDPMScheduler, variance_type=VARIANCE_TYPES[d.variance], **clipping(clip)
    )
    scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
    if not noise_at_last_step:
        noise[-1] = 0
    xs, starts = [noise[0]], []
    for z, t in zip(noise[1:], scheduler.timesteps):
        with mock.patch(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, z=z, **_: z
        ):
            output = exact_output(d, xs[-1], t)
            x, start = scheduler.step(output, t, xs[-1], return_dict=False)
        xs.append(x)
        starts.append(start)
    return torch.stack(xs).numpy(), torch.stack(starts).numpy()


def theirs_ddim(d, timesteps, clip=False, eta=0.0, own_steps=False):
    """Song et al.; `use_clipped_model_output` derives ϵ̂ from the clipped x̂₀, as we always do.

    diffusers goes from t to t - T // n, whatever timestep it lists next. So each step is told
    its own T and n = 1, except with `own_steps`: "leading" timesteps are that far apart anyway.
    """
    noise = torch.tensor(draws(len(timesteps))).double()
    scheduler = scheduler_like(
        d,
        diffusers.DDIMScheduler,
        set_alpha_to_one=True,
        timestep_spacing="leading",
        **clipping(clip),
    )
    scheduler.set_timesteps(len(timesteps))
    if own_steps:
        np.testing.assert_array_equal(scheduler.timesteps, timesteps)
    xs, starts = [noise[0]], []
    for z, t, t_next in zip(noise[1:], timesteps, [*timesteps[1:], -1]):
        if not own_steps:
            scheduler.register_to_config(num_train_timesteps=int(t - t_next))
            scheduler.num_inference_steps = 1
        x, start = scheduler.step(
            exact_output(d, xs[-1], torch.tensor(int(t))),
            int(t),
            xs[-1],
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=z if eta else None,
            return_dict=False,
        )
        xs.append(x)
        starts.append(start)
    return torch.stack(xs).numpy(), torch.stack(starts).numpy()


def theirs_dpm_solver(d, timesteps, clip=False, x=None, **options):
    """DPM-Solver++ 2M. A step of diffusers rounds its x to float32, the rest is float64.

    `final_sigmas_type="zero"` ends at the clean image, which makes the last step first order
    for any number of steps. There is no static clipping: it is dynamic with s limited to 1.
    """
    if clip is not False:
        options |= clipping(0.5 if clip is True else clip)
        options["sample_max_value"] = 1.0 if clip is True else 1e9
        del options["clip_sample"]
    default = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    scheduler = scheduler_like(
        d,
        diffusers.DPMSolverMultistepScheduler,
        final_sigmas_type="zero",
        euler_at_final=False,
        **default | options,
    )
    scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
    exact = (1 / scheduler.alphas_cumprod[scheduler.timesteps] - 1).sqrt()
    exact = torch.cat([exact, torch.zeros(1)])
    np.testing.assert_allclose(scheduler.sigmas, exact, rtol=1e-6)  # theirs are float32
    scheduler.sigmas = exact
    noise = torch.tensor(draws(len(timesteps))).double()
    xs, starts = [noise[0] if x is None else x], []
    for z, t in zip(noise[1:], scheduler.timesteps):
        output, options = exact_output(d, xs[-1], t), {"variance_noise": z, "return_dict": False}
        xs.append(scheduler.step(output, t, xs[-1], **options)[0])
        starts.append(scheduler.model_outputs[-1])
    return torch.stack(xs).numpy(), torch.stack(starts).numpy()


theirs_sde_dpm_solver = functools.partial(theirs_dpm_solver, algorithm_type="sde-dpmsolver++")


def theirs_heun(d, timesteps, clip=False):
    """Algorithm 1 of Karras et al. without churn, the last step Euler's.

    diffusers walks in x √(1 + σ²) = x / √ᾱ, lists every timestep but the first twice, once for
    each evaluation, and begins at σ_max noise instead of √(1 + σ_max²) noise. It has no dynamic
    thresholding.
    """
    scheduler = scheduler_like(d, diffusers.HeunDiscreteScheduler, clip_sample=clip)
    scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
    exact = (1 / scheduler.alphas_cumprod[scheduler.timesteps.long()] - 1).sqrt()
    exact = torch.cat([exact, torch.zeros(1)])
    np.testing.assert_allclose(scheduler.sigmas, exact, rtol=1e-6)  # theirs are float32
    scheduler.sigmas = exact
    xs, starts = [torch.tensor(draws(len(timesteps))[0]).double()], []
    x = xs[0] * (1 + exact[0] ** 2).sqrt()
    for i, t in enumerate(scheduler.timesteps):
        first_look = scheduler.state_in_first_order
        output = exact_output(d, scheduler.scale_model_input(x, t), t.long())
        x, start = scheduler.step(output, t, x, return_dict=False)
        if first_look:
            starts.append(start)
        if not first_look or i == len(exact) - 2:
            xs.append(x / (1 + exact[i + 1] ** 2).sqrt())
    return torch.stack(xs).numpy(), torch.stack(starts).numpy()


SAMPLERS = {
    "ddpm": (DDPM(), theirs_ddpm),
    "ddim 0": (DDIM(0.0), theirs_ddim),
    "ddim 0.5": (DDIM(0.5), functools.partial(theirs_ddim, eta=0.5)),
    "ddim 1": (DDIM(1.0), functools.partial(theirs_ddim, eta=1.0)),
    "dpm_solver++": (DPMSolverPlusPlus(), theirs_dpm_solver),
    "dpm_solver++ 1": (DPMSolverPlusPlus(1.0), theirs_sde_dpm_solver),
    "heun": (Heun(largest_growth=np.inf), theirs_heun),
}


TOLERANCE = 1e-5  # of the largest |x_t| of the step; float32 rounds at 6e-8
START_TOLERANCE = 2e-4  # x̂₀ divides what float32 leaves of x_t and of a predicted noise by √ᾱ
PATHS = {"8 of 1000": (1000, 8, 11), "20 of 723": (723, 20, 0), "50 of 1000": (1000, 50, 0)}
CLIPS = {"unclipped": False, "clipped": True, "thresholded": 0.9}


def path(d, steps, last):
    """Evenly spaced timesteps: from T - 1, or where the cosine schedule still leaves a signal.

    It ends at ᾱ = 2e-9, where a noise prediction in float32 no longer says what x₀ is, and where
    Heun's method multiplies rounding by thousands. See the test of the last cosine timestep.
    """
    enough = 0 if d.schedule == "linear" else 1e-3
    first = np.flatnonzero(d.alphas_cumprod >= enough)[-1]
    return np.linspace(first, last, steps).round().astype(int)


def deviation(found, expected):
    """The largest difference at any step, relative to the largest value of that step."""
    assert found.shape == expected.shape
    axes = tuple(range(1, found.ndim))
    return (np.abs(found - expected).max(axes) / np.abs(expected).max(axes)).max()


def assert_same_path(found, expected, tolerance=TOLERANCE, start_tolerance=START_TOLERANCE):
    x_t, x_start = (deviation(*pair) for pair in zip(found, expected))
    assert x_t < tolerance and x_start < start_tolerance, (x_t, x_start)
