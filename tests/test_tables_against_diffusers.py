"""Betas, timesteps, noisy images and loss weights against diffusers."""

import numpy as np
import pytest
from conftest import to_numpy
from diffusers_samplers import BETA_SCHEDULES, diffusers, draws, scheduler_like, torch
from keras import ops

from keras_ddpm import GaussianDiffusion
from keras_ddpm.samplers import choose_timesteps
from keras_ddpm.weighting import min_snr_weights


@pytest.mark.parametrize("timesteps", [1000, 723])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_betas(schedule, timesteps):
    scheduler = diffusers.DDPMScheduler(timesteps, beta_schedule=BETA_SCHEDULES[schedule])
    d = GaussianDiffusion(timesteps, schedule)
    np.testing.assert_allclose(d.betas, scheduler.betas, rtol=1e-5)


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


def test_noisy_data_and_velocity():
    d = GaussianDiffusion(1000, prediction="velocity")
    scheduler = scheduler_like(d, diffusers.DDPMScheduler)
    (start, noise), t = draws(1), np.array([0, 400, 999])
    theirs = [torch.tensor(x).double() for x in (start, noise)] + [torch.tensor(t)]
    ours = [ops.convert_to_tensor(x) for x in (start, t.astype("int32"), noise)]
    for found, expected in (
        (d.q_sample(*ours), scheduler.add_noise(*theirs)),
        (d.velocity(*ours), scheduler.get_velocity(*theirs)),
    ):
        np.testing.assert_allclose(to_numpy(found), expected, atol=1e-6)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_min_snr_weights(prediction):
    """The weights of diffusers' training examples, from its `compute_snr`."""
    from diffusers.training_utils import compute_snr

    d = GaussianDiffusion(1000, prediction=prediction)
    snr = compute_snr(scheduler_like(d, diffusers.DDPMScheduler), torch.arange(1000)).numpy()
    expected = np.minimum(snr, 5) / (snr if prediction == "noise" else snr + 1)
    np.testing.assert_allclose(min_snr_weights(d, 5), expected, rtol=1e-5)
