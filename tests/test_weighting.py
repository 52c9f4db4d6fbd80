"""Min-SNR-γ: the table, and that training and validation weigh their losses by it."""

import keras
import numpy as np
import pytest
from conftest import tiny_network, to_numpy
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.weighting import min_snr_weights

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype="uint8")
T = np.int32([0, 3, 6, 9, 12, 15, 18, 19])
NOISE = np.random.default_rng(1).standard_normal(IMAGES.shape).astype("float32")


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_every_prediction_weighs_the_error_of_x0_by_min_snr_gamma(gamma):
    snr = GaussianDiffusion(200, "cosine").alphas_cumprod
    snr = snr / (1 - snr)
    in_terms_of_start = {"noise": snr, "start": 1, "velocity": snr + 1}
    for prediction, factor in in_terms_of_start.items():
        diffusion = GaussianDiffusion(200, "cosine", prediction=prediction)
        weights = min_snr_weights(diffusion, gamma)
        assert weights.dtype == np.float64
        np.testing.assert_allclose(weights * factor, np.minimum(snr, gamma), rtol=1e-12)


@pytest.mark.parametrize("prediction", ["start", "velocity"])
def test_a_timestep_without_signal_has_no_weight(prediction):
    diffusion = GaussianDiffusion(50, prediction=prediction, zero_terminal_snr=True)
    weights = min_snr_weights(diffusion)
    assert weights[-1] == 0 and (weights[:-1] > 0).all()


def make_model(**kwargs):
    network, diffusion = tiny_network(), GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, seed=0, **kwargs)
    model.compile(keras.optimizers.SGD(0.0))
    model.draw = lambda shape, validation=False: (
        ops.convert_to_tensor(T),
        ops.convert_to_tensor(NOISE),
        ops.zeros((8,), "bool"),
    )
    return model


def test_training_and_validation_weigh_the_loss():
    model = make_model(min_snr_gamma=2.0)
    x_start = IMAGES / 127.5 - 1
    diffusion = model.diffusion
    t = ops.convert_to_tensor(T)
    output = model.network([diffusion.q_sample(x_start, t, NOISE), t])
    target = diffusion.velocity(x_start, t, NOISE)
    errors = np.square(to_numpy(output) - to_numpy(target)).mean((1, 2, 3))
    expected = np.mean(errors * min_snr_weights(diffusion, 2.0)[T])
    assert expected < 0.8 * errors.mean()

    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    found = model.fit(IMAGES, validation_data=(IMAGES,), **options).history
    assert found["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert found["val_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert make_model().fit(IMAGES, **options).history["loss"][0] == pytest.approx(
        errors.mean(), rel=1e-4
    )


def test_the_weighting_survives_saving(tmp_path):
    make_model(min_snr_gamma=2.0).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").min_snr_gamma == 2.0


@pytest.mark.parametrize("gamma", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_wrong_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="min_snr_gamma=.* must be a positive number, such as 5"):
        make_model(min_snr_gamma=gamma)
