"""Schedules that end without any signal, and the samplers on them, against diffusers."""

import copy

import numpy as np
import pytest
from diffusers_samplers import (
    CLIPS,
    SAMPLERS,
    TOLERANCE,
    assert_same_path,
    deviation,
    diffusers,
    ours,
    theirs_ddim,
    theirs_dpm_solver,
    torch,
)

from keras_ddpm import GaussianDiffusion
from keras_ddpm.samplers import DPMSolverPlusPlus, choose_timesteps
from keras_ddpm.schedules import cosine_betas, linear_betas, without_terminal_signal


@pytest.mark.parametrize("schedule", [linear_betas, cosine_betas])
@pytest.mark.parametrize("timesteps", [2, 723, 1000])
def test_rescaled_betas(timesteps, schedule):
    betas = schedule(timesteps)
    module = diffusers.schedulers.scheduling_ddim
    expected = module.rescale_zero_terminal_snr(torch.tensor(betas)).numpy()
    np.testing.assert_allclose(without_terminal_signal(betas), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", ["ddpm", "ddim 0", "ddim 0.5", "ddim 1"])
def test_zero_terminal_snr(name, schedule, clip):
    d = GaussianDiffusion(1000, schedule, prediction="velocity", zero_terminal_snr=True)
    sampler, theirs = SAMPLERS[name]
    way, clip = choose_timesteps(d, 20, "trailing"), CLIPS[clip]
    assert d.alphas_cumprod[way[0]] == 0
    assert_same_path(ours(d, sampler, way, clip), theirs(d, way, clip))


def test_zero_terminal_snr_with_dpm_solver_is_one_step_of_ddim_and_the_rest():
    """Without any signal λ is -inf, so the second step has no slope to extrapolate with.

    It is first order, and so is the first step of a fresh DPM-Solver++.
    """
    d = GaussianDiffusion(1000, prediction="velocity", zero_terminal_snr=True)
    way = choose_timesteps(d, 20, "trailing")
    first = theirs_ddim(d, way)[0][:2]
    rest = theirs_dpm_solver(d, way[1:], x=torch.tensor(first[1]))[0]
    expected = np.concatenate([first[:1], rest])
    assert deviation(ours(d, DPMSolverPlusPlus(), way)[0], expected) < TOLERANCE


def test_the_tiny_signal_that_diffusers_leaves_to_dpm_solver():
    """DPMSolverMultistepScheduler divides by √ᾱ, so it replaces ᾱ = 0 by 2⁻²⁴.

    With that ᾱ here too, both sides agree. From that of ᾱ = 0, the way is less than 2⁻¹² away; its
    second step is second order. (ᾱ is then larger than at T - 2, so no betas belong to it.)
    """
    zero = GaussianDiffusion(1000, prediction="velocity", zero_terminal_snr=True)
    tiny = copy.copy(zero)
    tiny.alphas_cumprod = np.append(zero.alphas_cumprod[:-1], 2.0**-24)
    tiny.sqrt_alphas_cumprod = np.sqrt(tiny.alphas_cumprod)
    tiny.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - tiny.alphas_cumprod)
    way, sampler = choose_timesteps(zero, 20, "trailing"), DPMSolverPlusPlus()
    expected = theirs_dpm_solver(tiny, way)
    assert_same_path(ours(tiny, sampler, way), expected)
    assert 2 * TOLERANCE < deviation(ours(zero, sampler, way)[0], expected[0]) < 2**-12
