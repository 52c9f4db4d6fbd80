"""Every sampler against its counterpart in diffusers, at every step and not only at the end."""

import functools

import numpy as np
import pytest
from diffusers_samplers import (
    CLIPS,
    PATHS,
    SAMPLERS,
    TOLERANCE,
    assert_same_path,
    deviation,
    draws,
    ours,
    path,
    theirs_ddim,
    theirs_ddpm,
    theirs_dpm_solver,
    theirs_sde_dpm_solver,
)

from keras_ddpm import GaussianDiffusion
from keras_ddpm.samplers import DDIM, DDPM, DPMSolverPlusPlus, Heun, choose_timesteps


@pytest.mark.parametrize("prediction", ["noise", "velocity", "start"])
@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    "name, clip",
    # HeunDiscreteScheduler has no dynamic thresholding.
    [
        (name, clip)
        for name in SAMPLERS
        for clip in CLIPS
        if (name, clip) != ("heun", "thresholded")
    ],
)
def test_every_step_is_that_of_diffusers(name, schedule, way, prediction, clip):
    timesteps, *steps = PATHS[way]
    d = GaussianDiffusion(timesteps, schedule, prediction=prediction)
    sampler, theirs = SAMPLERS[name]
    way, clip = path(d, *steps), CLIPS[clip]
    assert_same_path(ours(d, sampler, way, clip), theirs(d, way, clip))


@pytest.mark.parametrize("clip", ["clipped", "thresholded"])
def test_the_denoiser_of_these_tests_has_something_to_clip(clip):
    d = GaussianDiffusion(1000)
    way = path(d, 20, 0)
    assert deviation(ours(d, DDIM(), way, CLIPS[clip])[0], ours(d, DDIM(), way)[0]) > 0.05


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ancestral_sampling_with_the_larger_variance(schedule, way, prediction):
    timesteps, *steps = PATHS[way]
    d = GaussianDiffusion(timesteps, schedule, prediction=prediction, variance="beta")
    way = path(d, *steps)
    assert_same_path(ours(d, DDPM(), way, True), theirs_ddpm(d, way, True))


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize(
    "schedule, timesteps, prediction",
    [("linear", 1000, "noise"), ("cosine", 1000, "velocity"), ("cosine", 723, "noise")],
)
def test_ancestral_sampling_through_all_timesteps(schedule, timesteps, prediction, variance):
    d = GaussianDiffusion(timesteps, schedule, prediction=prediction, variance=variance)
    way = np.arange(timesteps)[::-1]
    found, expected = ours(d, DDPM(), way, True), theirs_ddpm(d, way, True)
    # The cosine schedule starts at √ᾱ = 1 / 14000 (T = 723), so x̂₀ is lost but not needed yet.
    assert_same_path(found, expected, start_tolerance=np.inf)


def test_the_last_noise_is_the_only_difference_in_the_variances():
    """The package adds none; diffusers adds √β z, because the list does not end at t = 0."""
    d = GaussianDiffusion(1000, variance="beta")
    way = path(d, 8, 11)
    found, expected = ours(d, DDPM(), way)[0], theirs_ddpm(d, way, noise_at_last_step=True)[0]
    assert deviation(found[:-1], expected[:-1]) < TOLERANCE
    last_noise = np.sqrt(1 - d.alphas_cumprod[11]) * draws(8)[-1]
    assert deviation(found[-1:], expected[-1:]) > 1000 * TOLERANCE
    assert deviation(found[-1:] + last_noise, expected[-1:]) < TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("timesteps, steps", [(1000, 20), (723, 50)])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ddim_with_the_steps_that_diffusers_takes_by_itself(schedule, timesteps, steps, eta):
    d = GaussianDiffusion(timesteps, schedule, prediction="velocity")
    way = choose_timesteps(d, steps, "leading")
    expected = theirs_ddim(d, way, True, eta, own_steps=True)
    assert_same_path(ours(d, DDIM(eta), way, True), expected)


@pytest.mark.parametrize("way", [[999], [0], [999, 400], [900, 500, 100]], ids=str)
@pytest.mark.parametrize("name", SAMPLERS)
def test_very_few_steps(name, way):
    d = GaussianDiffusion(1000, prediction="velocity")
    sampler, theirs = SAMPLERS[name]
    # Heun's method in float32 subtracts numbers that are 1 / √ᾱ_999 = 160 times their difference.
    tolerance = 2e-4 if name == "heun" else TOLERANCE
    assert_same_path(ours(d, sampler, np.array(way)), theirs(d, np.array(way)), tolerance)


@pytest.mark.parametrize("prediction, tolerance", [("velocity", TOLERANCE), ("noise", 1e-3)])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "heun"])
def test_from_the_last_cosine_timestep(name, prediction, tolerance):
    """x̂₀ from a noise prediction is wrong by 6e-8 / √ᾱ = 1e-3 there, and goes into the next x.

    A velocity says x₀ at any ᾱ. Heun's first step, here from σ = 20000 to 13, is no reference:
    the mean of the two noises misses x₀ by so much that the two sides differ by 1 to 3 %.
    """
    d = GaussianDiffusion(1000, "cosine", prediction=prediction)
    sampler, theirs = SAMPLERS[name]
    way = choose_timesteps(d, 20, "linspace")
    found, expected = ours(d, sampler, way), theirs(d, way)
    assert_same_path(found, expected, tolerance, start_tolerance=2e-2)


# ---- what these tests would notice ------------------------------------------------------


def small_mistakes():
    """Pairs that must not agree, by name: a sampler of the package and a neighbour of it."""
    small, large = (
        GaussianDiffusion(1000, prediction="velocity", variance=variance)
        for variance in ("posterior", "beta")
    )
    way = path(small, 20, 0)
    shifted = np.append(way[:-1] - 1, 0)
    heun = functools.partial(theirs_dpm_solver, solver_type="heun")
    first_order = functools.partial(theirs_dpm_solver, solver_order=1)
    sde_heun = functools.partial(theirs_sde_dpm_solver, solver_type="heun")
    return {
        "the other variance": (ours(small, DDPM(), way), theirs_ddpm(large, way)),
        "eta 0.55": (ours(small, DDIM(0.5), way), theirs_ddim(small, way, eta=0.55)),
        "eta 0": (ours(small, DDIM(0.1), way), theirs_ddim(small, way)),
        "one timestep earlier": (ours(small, DDIM(), way), theirs_ddim(small, shifted)),
        "another multistep": (ours(small, DPMSolverPlusPlus(), way), heun(small, way)),
        "first order": (ours(small, DPMSolverPlusPlus(), way), first_order(small, way)),
        "another random multistep": (
            ours(small, DPMSolverPlusPlus(1.0), way),
            sde_heun(small, way),
        ),
        "Euler": (ours(small, Heun(), way), theirs_ddim(small, way)),
        "percentile": (ours(small, DDIM(), way, 0.9), theirs_ddim(small, way, 0.92)),
    }


def test_small_mistakes_are_fifty_times_the_tolerance():
    for name, (found, expected) in small_mistakes().items():
        assert deviation(found[0], expected[0]) > 50 * TOLERANCE, name
