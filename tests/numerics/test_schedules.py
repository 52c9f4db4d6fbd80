"""Beta schedules and min-SNR loss weights against their formulas."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from tools import FLOATS, IMAGES, LABELS, compiled, make_model, to_numpy

from keras_ddpm import GaussianDiffusion
from keras_ddpm.schedules import (
    cosine_betas,
    flow_betas,
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
def test_the_flow_schedule_is_the_straight_path_rescaled():
    """In the range of all T, also where ᾱ is nearly 0 or 1."""
    s = np.arange(1, 1001) / 1000
    size = np.hypot(1 - s, s)
    diffusion = GaussianDiffusion(1000, "flow", prediction="velocity")
    np.testing.assert_allclose(diffusion.sqrt_alphas_cumprod, (1 - s) / size, rtol=1e-10)
    np.testing.assert_allclose(diffusion.sqrt_one_minus_alphas_cumprod, s / size, rtol=1e-9)
    np.testing.assert_array_equal(flow_betas(1), [1.0])
    with pytest.raises(ValueError, match="prediction='noise' is not possible with schedule='flow'"):
        GaussianDiffusion(1000, "flow")


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


def test_training_and_validation_weigh_each_image_by_its_timestep_and_its_own_weight():
    """With a loss that is not symmetric."""
    t = np.int32([0, 3, 6, 9, 12, 15, 18, 19])
    noise = np.random.default_rng(1).standard_normal(IMAGES.shape).astype("float32")
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")

    def error(target, output):
        return ops.square(output - 2 * target)

    sgd, losses = keras.optimizers.SGD(0.0), {"loss": error, "weighted_metrics": [error]}
    model = make_model(3, sgd, diffusion=diffusion, min_snr_gamma=2.0, compile=losses)
    draws = ops.convert_to_tensor(t), ops.convert_to_tensor(noise), ops.zeros(8, "bool")
    model.draw = lambda shape, validation=False: draws
    x_t, target = (to_numpy(f(FLOATS, t, noise)) for f in (diffusion.q_sample, diffusion.velocity))
    output = compiled(model.network)([x_t, t, LABELS])
    errors = to_numpy(error(target, output)).mean((1, 2, 3))
    given = np.linspace(0.2, 2, 8)
    weights = given * min_snr_weights(diffusion, 2.0)[t]
    expected = {"loss": np.mean(weights * errors), "error": np.average(errors, weights=weights)}
    options = {"validation_data": (IMAGES, LABELS, given), "sample_weight": given, "batch_size": 8}
    found = model.fit(IMAGES, LABELS, **options, verbose=0, shuffle=False).history
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-4)
        assert found[f"val_{name}"][0] == pytest.approx(value, rel=1e-4)


@pytest.mark.once
def test_the_loss_of_an_epoch_is_the_mean_over_images_and_not_over_batches():
    model = make_model()
    model.draw = lambda shape, _: (
        ops.full(shape[:1], 9, "int32"),
        ops.ones(shape),
        ops.zeros(shape[:1]),
    )
    whole, parts = (model.evaluate(IMAGES, batch_size=n, verbose=0) for n in (8, 5))
    assert parts == pytest.approx(whole, rel=1e-5)
