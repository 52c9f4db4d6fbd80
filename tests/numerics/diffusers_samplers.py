"""The samplers and schedulers of diffusers, given the signal levels, timesteps, noise and denoiser
that the samplers of the package get. They compute in float64.
"""

from unittest import mock

import diffusers
import numpy as np
import torch
from keras import ops

from keras_ddpm import GaussianDiffusion, sample

SHAPE = (3, 4, 4, 2)
PREDICTION_TYPES = {"noise": "epsilon", "start": "sample", "velocity": "v_prediction"}
VARIANCE_TYPES = {"posterior": "fixed_small", "beta": "fixed_large"}
BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def draws(steps):
    """x_T, and the noise of every step."""
    return np.random.default_rng(3).standard_normal((steps + 1, *SHAPE)).astype("float32")


def exact_output(d, x_t, t):
    """The output of a perfect network for a mixture of three Gaussians, in float64.

    The mixture is wide enough for the predicted start to leave [-1, 1]. Its components compete, so
    the output is neither linear in x_t nor made pixel by pixel. It does not amplify rounding.
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


def ours(d, sampler, plan, clip=False):
    """x_t before every step and after the last, and the predicted start of every step.

    `sampler` is a function of the timesteps.
    """
    noise = ops.convert_to_tensor(draws(len(plan)))

    def denoiser(x_t, t):
        return exact_output(d, x_t.cpu().double(), t.cpu().long()).to(x_t)

    def step_noise(seeds, i, shape):
        return ops.take(noise, i + 1, axis=0)

    options = {"clip_denoised": clip, "return_trajectory": True}
    with mock.patch("keras_ddpm.samplers.loop.step_noise", step_noise):
        _, found = sample(denoiser, d, noise[0], sampler(timesteps=np.array(plan)), **options)
    return found.x_t, found.x_start[:-1]


def scheduler_like(d, kind, plan=None, **options):
    """A scheduler of diffusers with the float64 signal levels of the diffusion, not float32."""
    scheduler = kind(
        num_train_timesteps=d.timesteps,
        beta_schedule=BETA_SCHEDULES[d.schedule],
        beta_start=d.beta_start,
        beta_end=d.beta_end,
        prediction_type=PREDICTION_TYPES[d.prediction],
        **options | ({"rescale_betas_zero_snr": True} if d.zero_terminal_snr else {}),
    )
    np.testing.assert_allclose(scheduler.alphas_cumprod, d.alphas_cumprod, atol=1e-6)
    scheduler.betas = torch.tensor(d.betas)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.tensor(d.alphas_cumprod)
    if plan is not None:
        scheduler.set_timesteps(timesteps=[int(t) for t in plan])
    return scheduler


def clipping(clip):
    """`clip_denoised` as options of the schedulers DDPM and DDIM."""
    if isinstance(clip, bool):
        return {"clip_sample": clip}
    # The threshold of diffusers has a maximum, by default 1; that of the paper has none.
    dynamic = {"dynamic_thresholding_ratio": clip, "sample_max_value": 1e9}
    return {"clip_sample": False, "thresholding": True, **dynamic}


def run(d, plan, step, x=None):
    """The states and starts of `step(output, t, x, z) -> x, start`, as `ours` returns them."""
    first, *noise = torch.tensor(draws(len(plan))).double()
    xs, starts = [first if x is None else x], []
    for t, z in zip(map(int, plan), noise):
        x, start = step(exact_output(d, xs[-1], t), t, xs[-1], z)
        xs.append(x)
        starts.append(start)
    return torch.stack(xs).numpy(), torch.stack(starts).numpy()


def theirs_ddpm(d, plan, clip=False):
    """Ho et al., algorithm 2, with z = 0 in the last step.

    There diffusers adds noise unless t = 0. Here the clean image follows the last timestep.
    """
    options = {"variance_type": VARIANCE_TYPES[d.variance], **clipping(clip)}
    scheduler = scheduler_like(d, diffusers.DDPMScheduler, plan, **options)

    def step(output, t, x, z):
        z = z if t != plan[-1] else 0 * z
        name = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
        with mock.patch(name, lambda shape, **_: z):
            return scheduler.step(output, t, x, return_dict=False)

    return run(d, plan, step)


def theirs_ddim(d, plan, clip=False, eta=0.0):
    """Song et al.; `use_clipped_model_output` computes the noise from the clipped start.

    diffusers goes from t to t - T // n, whatever timestep comes next in its list. So each step gets
    its own T with n = 1.
    """
    scheduler = scheduler_like(d, diffusers.DDIMScheduler, set_alpha_to_one=True, **clipping(clip))
    scheduler.set_timesteps(1)
    t_next = dict(zip(plan, [*plan[1:], -1]))
    options = {"eta": eta, "use_clipped_model_output": True, "return_dict": False}

    def step(output, t, x, z):
        scheduler.register_to_config(num_train_timesteps=int(t - t_next[t]))
        return scheduler.step(output, t, x, variance_noise=z if eta else None, **options)

    return run(d, plan, step)


def use_exact_sigmas(scheduler):
    """σ = √(1 − ᾱ) / √ᾱ of the plan and of the clean image; those of diffusers are float32."""
    exact = (1 / scheduler.alphas_cumprod[scheduler.timesteps.long()] - 1).sqrt()
    exact = torch.cat([exact, torch.zeros(1)])
    np.testing.assert_allclose(scheduler.sigmas, exact, rtol=1e-6)
    scheduler.sigmas = exact


def theirs_dpm_solver(d, plan, x=None, algorithm_type="dpmsolver++"):
    """DPM-Solver++ 2M. A step of diffusers rounds its x to float32, the rest is float64.

    `final_sigmas_type="zero"` ends at the clean image, which makes the last step first order for
    any number of steps.
    """
    options = {"algorithm_type": algorithm_type, "solver_order": 2, "final_sigmas_type": "zero"}
    scheduler = scheduler_like(d, diffusers.DPMSolverMultistepScheduler, plan, **options)
    use_exact_sigmas(scheduler)

    def step(output, t, x, z):
        (x,) = scheduler.step(output, t, x, variance_noise=z, return_dict=False)
        return x, scheduler.model_outputs[-1]

    return run(d, plan, step, x)


def theirs_heun(d, plan):
    """Karras et al., algorithm 1 without churn; the last step is Euler's.

    The state of diffusers is x / √ᾱ = x √(1 + σ²), and a step takes two calls, the second for the
    timestep after it.
    """
    scheduler = scheduler_like(d, diffusers.HeunDiscreteScheduler, plan)
    use_exact_sigmas(scheduler)
    t_next = dict(zip(plan, plan[1:]))

    def scale(t):
        return float(1 / d.sqrt_alphas_cumprod[t])

    def step(output, t, x, z):
        y, start = scheduler.step(output, t, x * scale(t), return_dict=False)
        if t not in t_next:  # the clean image
            return y, start
        t = int(t_next[t])
        output = exact_output(d, y / scale(t), t)
        y, _ = scheduler.step(output, t, y, return_dict=False)
        return y / scale(t), start

    return run(d, plan, step)


def theirs_flow(d, steps):
    """Euler's method for flow matching, with the velocity ϵ̂ − x̂₀ of the same perfect network.

    Their x is (1 − s) x₀ + s ϵ. Returned are x_t, which is that divided by √((1 − s)² + s²), and
    the timesteps t of ours, for which s = (t + 1) / T.
    """
    d = GaussianDiffusion(d.timesteps, "flow", prediction="start")  # of which it takes x̂₀
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=d.timesteps)
    plan = np.round(np.arange(steps, 0, -1) * d.timesteps / steps).astype(int) - 1
    scheduler.set_timesteps(sigmas=(plan + 1) / d.timesteps)
    x, states = torch.tensor(draws(steps)[0]).double(), []
    for t, time, s in zip(plan, scheduler.timesteps, (plan + 1) / d.timesteps):
        x_t = x / np.hypot(1 - s, s)
        states.append(x_t)
        start = exact_output(d, x_t, int(t))
        velocity = (x - start) / s  # ϵ̂ − x̂₀, as x = (1 − s) x̂₀ + s ϵ̂
        (x,) = scheduler.step(velocity, time, x, return_dict=False)
    return torch.stack([*states, x]).numpy(), plan
