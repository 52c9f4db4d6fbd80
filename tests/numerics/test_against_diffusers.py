"""Samplers, at every step and not only at the end, and schedules against those of diffusers.

diffusers computes in float64 what the package computes in float32. The comments say where the two
differ by design.
"""

from functools import partial

import keras
import numpy as np
import pytest

from keras_ddpm import DDIM, DDPM, DPMSolverPlusPlus, GaussianDiffusion, Heun
from keras_ddpm.samplers import choose_timesteps

if keras.backend.backend() != "torch":
    pytest.skip("diffusers runs on PyTorch: use KERAS_BACKEND=torch", allow_module_level=True)
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers, the reference, is not installed")
from diffusers_samplers import (  # noqa: E402
    BETA_SCHEDULES,
    ours,
    theirs_ddim,
    theirs_ddpm,
    theirs_dpm_solver,
    theirs_flow,
    theirs_heun,
)

pytestmark = pytest.mark.needs("torch", "diffusers")

SAMPLERS = {
    "ddpm": (DDPM, theirs_ddpm),
    "ddim 0": (DDIM, theirs_ddim),
    "ddim 0.5": (partial(DDIM, eta=0.5), partial(theirs_ddim, eta=0.5)),
    "dpm_solver++": (DPMSolverPlusPlus, theirs_dpm_solver),
    "dpm_solver++ 1": (
        partial(DPMSolverPlusPlus, eta=1.0),
        partial(theirs_dpm_solver, algorithm_type="sde-dpmsolver++"),
    ),
    "heun": (partial(Heun, max_growth=np.inf), theirs_heun),  # corrects every step
}

TOLERANCE = 1e-5  # of the largest |x_t| of the step; float32 rounds at 6e-8
START_TOLERANCE = 2e-4  # the start is what float32 leaves of x_t and the noise, divided by √ᾱ


def deviation(found, expected):
    """The largest difference at any step, relative to the largest value of that step."""
    assert found.shape == expected.shape
    axes = tuple(range(1, found.ndim))
    return (np.abs(found - expected).max(axes) / np.abs(expected).max(axes)).max()


def assert_same_path(found, expected, tolerance=TOLERANCE, start_tolerance=START_TOLERANCE):
    x_t, x_start = (deviation(*pair) for pair in zip(found, expected))
    assert x_t < tolerance and x_start < start_tolerance, (x_t, x_start)


# prediction, schedule, timesteps, steps, the last of them
CASES = [
    ("noise", "linear", 1000, 8, 11),
    ("velocity", "cosine", 723, 20, 0),
    ("start", "cosine", 1000, 50, 0),
]


def even_plan(d, steps, last):
    """Even timesteps from T - 1, or from where the cosine schedule still leaves a signal.

    It ends at ᾱ = 2e-9, where float32 loses x₀ in a noise prediction, and where Heun's method
    multiplies rounding by thousands: see the test of the last cosine timestep.
    """
    enough = 0 if d.schedule == "linear" else 1e-3
    first = np.flatnonzero(d.alphas_cumprod >= enough)[-1]
    return np.linspace(first, last, steps).round().astype(int)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_is_that_of_diffusers(name, case):
    prediction, schedule, timesteps, steps, last = case
    d = GaussianDiffusion(timesteps, schedule, prediction=prediction)
    (sampler, theirs), plan = SAMPLERS[name], even_plan(d, steps, last)
    assert_same_path(ours(d, sampler, plan), theirs(d, plan))


@pytest.mark.parametrize("clip", [True, 0.9])
@pytest.mark.parametrize("name", ["ddpm", "ddim 0.5"])
def test_clipped_starts_are_those_of_diffusers(name, clip):
    d = GaussianDiffusion(723, prediction="noise")
    (sampler, theirs), plan = SAMPLERS[name], even_plan(d, 20, 0)
    assert_same_path(ours(d, sampler, plan, clip), theirs(d, plan, clip))


def test_ancestral_sampling_through_all_timesteps():
    d = GaussianDiffusion(200, "cosine", prediction="velocity", variance="beta")
    plan = np.arange(200)[::-1]
    # A start of large t is less exact, but the next x hardly depends on it.
    found, expected = ours(d, DDPM, plan, True), theirs_ddpm(d, plan, True)
    assert_same_path(found, expected, start_tolerance=np.inf)


@pytest.mark.parametrize("plan", [[0], [999, 400]], ids=str)
@pytest.mark.parametrize("name", SAMPLERS)
def test_very_few_steps(name, plan):
    d, plan = GaussianDiffusion(1000, prediction="velocity"), np.array(plan)
    sampler, theirs = SAMPLERS[name]
    # Heun's method in float32 subtracts numbers that are 1 / √ᾱ_999 = 160 times their difference.
    tolerance = 2e-4 if name == "heun" else TOLERANCE
    assert_same_path(ours(d, sampler, plan), theirs(d, plan), tolerance)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "heun"])
def test_from_the_last_cosine_timestep(name):
    """Heun's first step, here from σ = 20000 to 13, is not compared.

    There the mean of the two noises misses x₀ by so much that both sides differ by 1 to 3 %.
    """
    d = GaussianDiffusion(1000, "cosine", prediction="velocity")
    (sampler, theirs), plan = SAMPLERS[name], choose_timesteps(d, 20, "linspace")
    assert_same_path(ours(d, sampler, plan), theirs(d, plan), start_tolerance=2e-2)


@pytest.mark.parametrize("prediction", ["velocity", "start"])
@pytest.mark.parametrize("steps", [1, 8, 200])
def test_ddim_on_the_flow_schedule_is_flow_matching(steps, prediction):
    d = GaussianDiffusion(1000, "flow", prediction=prediction)
    expected, plan = theirs_flow(d, steps)
    np.testing.assert_array_equal(choose_timesteps(d, steps, "trailing"), plan)
    found, _ = ours(d, DDIM, plan)
    assert deviation(found, expected) < TOLERANCE


def silent(schedule="linear"):
    d = GaussianDiffusion(1000, schedule, prediction="velocity", zero_terminal_snr=True)
    plan = choose_timesteps(d, 20, "trailing")
    assert d.alphas_cumprod[plan[0]] == 0
    return d, plan


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("name", ["ddpm", "ddim 0", "ddim 0.5"])
def test_zero_terminal_snr(name, schedule):
    (sampler, theirs), (d, plan) = SAMPLERS[name], silent(schedule)
    assert_same_path(ours(d, sampler, plan), theirs(d, plan))


def test_dpm_solver_begins_with_one_step_of_ddim():
    """Without any signal the log-SNR is -inf, so the second step has no slope to extrapolate with.

    It is first order, and so is the first step of a fresh DPM-Solver++.
    """
    d, plan = silent()
    first = theirs_ddim(d, plan)[0][:2]
    rest = theirs_dpm_solver(d, plan[1:], x=torch.tensor(first[1]))[0]
    expected = np.concatenate([first[:1], rest])
    assert deviation(ours(d, DPMSolverPlusPlus, plan)[0], expected) < TOLERANCE


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("timesteps", [1000, 723])
def test_timesteps(timesteps, spacing):
    scheduler = diffusers.DDPMScheduler(timesteps, timestep_spacing=spacing)
    # Not 1: "linspace" of diffusers is then t = 0, here T - 1, where the noise is. And not 50: of
    # 723, "trailing" comes to 361.5, which diffusers sums up inexactly and may round down.
    for steps in (5, 21, 99, timesteps):
        scheduler.set_timesteps(steps)
        found = choose_timesteps(GaussianDiffusion(timesteps), steps, spacing)
        np.testing.assert_array_equal(found, scheduler.timesteps)
