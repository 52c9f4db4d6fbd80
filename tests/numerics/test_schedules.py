"""Beta schedules and min-SNR loss weights against their formulas."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from tools import FLOATS, IMAGES, compiled, make_model, to_numpy

from keras_ddpm import GaussianDiffusion
from keras_ddpm.schedules import (
    cosine_betas,
    linear_betas,
    min_snr_weights,
    zero_terminal_snr_betas,
)


@pytest.mark.once
def test_linear_betas_are_evenly_spaced():
    by_hand = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    betas = linear_betas(1000)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, by_hand, rtol=1e-13)
    np.testing.assert_allclose(linear_betas(3, 0.1, 0.5), [0.1, 0.3, 0.5])


@pytest.mark.once
@pytest.mark.parametrize("timesteps", [1, 1000])
def test_cosine_betas_follow_the_squared_cosine(timesteps):
    def signal(step):
        return math.cos((step / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    by_hand = [min(1 - signal(s + 1) / signal(s), 0.999) for s in range(timesteps)]
    betas = cosine_betas(timesteps)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, by_hand, rtol=1e-10)


@pytest.mark.once
@pytest.mark.parametrize("betas", [linear_betas(1000), cosine_betas(2)], ids=len)
def test_zero_terminal_snr_stretches_the_rate_of_the_signal(betas):
    before = np.sqrt(np.cumprod(1 - betas))
    rescaled = zero_terminal_snr_betas(betas)
    after = np.sqrt(np.cumprod(1 - rescaled))
    # Linear in the old rates, so that the first stays and the last becomes zero.
    slope = before[0] / (before[0] - before[-1])
    np.testing.assert_allclose(after, slope * (before - before[-1]), atol=1e-12)
    assert rescaled[-1] == 1 and after[0] == pytest.approx(before[0], rel=1e-14)


@pytest.mark.once
def test_each_prediction_weighs_the_error_of_the_start_by_the_smaller_of_snr_and_gamma():
    signal = GaussianDiffusion(200, "cosine").alphas_cumprod
    snr = signal / (1 - signal)
    # The squared error of each prediction, in units of that of x_0.
    units = {"noise": snr, "start": 1, "velocity": snr + 1}
    for prediction, unit in units.items():
        weights = min_snr_weights(GaussianDiffusion(200, "cosine", prediction=prediction), 0.5)
        assert weights.dtype == np.float64
        np.testing.assert_allclose(weights * unit, np.minimum(snr, 0.5), rtol=1e-12)
    silent = GaussianDiffusion(100, prediction="velocity", zero_terminal_snr=True)
    assert min_snr_weights(silent)[-1] == 0 and (min_snr_weights(silent)[:-1] > 0).all()


def test_training_and_validation_weigh_the_loss():
    t = np.int32([0, 3, 6, 9, 12, 15, 18, 19])
    noise = np.random.default_rng(1).standard_normal(IMAGES.shape).astype("float32")
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    sgd = keras.optimizers.SGD(0.0)  # does not learn
    model = make_model(diffusion=diffusion, optimizer=sgd, min_snr_gamma=2.0)
    draws = ops.convert_to_tensor(t), ops.convert_to_tensor(noise), ops.zeros((8,), "bool")
    model.draw = lambda shape, validation=False: draws

    x_t = to_numpy(diffusion.q_sample(FLOATS, t, noise))
    errors = compiled(model.network)([x_t, t]) - to_numpy(diffusion.velocity(FLOATS, t, noise))
    errors = np.square(errors).mean((1, 2, 3))
    expected = np.mean(errors * min_snr_weights(diffusion, 2.0)[t])
    assert expected < 0.8 * errors.mean()
    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    found = model.fit(IMAGES, validation_data=(IMAGES,), **options).history
    assert found["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert found["val_loss"][0] == pytest.approx(expected, rel=1e-4)
