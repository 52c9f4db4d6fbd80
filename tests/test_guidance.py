"""Classifier-free guidance, and classes by name."""

import keras
import numpy as np
import pytest
from conftest import tiny_network, to_numpy
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, generation, sample
from keras_ddpm.backend import network_function
from keras_ddpm.guidance import guide
from keras_ddpm.samplers.seeds import initial_noise

NAMES = ("rose", "tulip", "daisy")


def make_model(prediction="velocity", **kwargs):
    network, diffusion = tiny_network(num_classes=3), GaussianDiffusion(20, "cosine")
    diffusion = GaussianDiffusion(20, "cosine", prediction=prediction)
    return DiffusionModel(network, diffusion, label_names=NAMES, **kwargs)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return make_model()


# ---- the formula ------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_guidance_mixes_the_two_predicted_noises(prediction):
    """Whatever the network predicts, and image by image with a scale of its own."""
    model = make_model(prediction)
    d, x_t = model.diffusion, initial_noise(0, (4, 8, 8, 1))
    t, label = np.full(4, 13, "int32"), np.int32([0, 1, 2, 0])
    scales = np.float32([0.0, 1.0, 2.0, 7.5])

    def noise_of(label):
        output = model.ema_network([x_t, t, label])
        return to_numpy(d.predict_noise_from_start(x_t, t, d.predict_start(x_t, t, output)))

    unconditional, conditional = noise_of(np.full(4, 3, "int32")), noise_of(label)
    s = scales[:, None, None, None]
    mixed = unconditional + s * (conditional - unconditional)
    expected = to_numpy(d.predict_start_from_noise(x_t, t, mixed))

    options = {"timesteps": [13], "noise": x_t, "clip_denoised": False}
    found = model.generate(labels=label, guidance_scale=scales, **options)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(conditional - unconditional).max() > 0.05


def test_scale_one_is_the_labels_own_prediction_without_a_doubled_batch(model, monkeypatch):
    options = {"labels": [0, 1, 2], "steps": 4, "seed": 0}
    plain = model.generate(**options)
    ones = model.generate(guidance_scale=1.0, **options)
    np.testing.assert_array_equal(ones, plain)
    guided = model.generate(guidance_scale=[1.0, 1.0, 3.0], **options)
    np.testing.assert_allclose(guided[:2], plain[:2], atol=1e-4)
    assert np.abs(guided[2] - plain[2]).max() > 0.01

    batches = []
    fresh = make_model()

    def spying(network, training):
        run = network_function(network, training)

        def spy(inputs):
            batches.append(inputs[0].shape[0])
            return run(inputs)

        return spy

    monkeypatch.setattr(generation, "network_function", spying)
    fresh.generate(guidance_scale=1.0, **options)
    assert set(batches) == {3}
    fresh.generate(guidance_scale=2.0, **options)
    assert set(batches) == {3, 6}


def test_guide_works_with_sample():
    """Two classes of points, at -1 and at 1; the mean of both is at 0."""
    diffusion = GaussianDiffusion(20, "cosine", prediction="start")
    label = ops.convert_to_tensor(np.int32([0, 1, 1]))
    scale = ops.convert_to_tensor(np.float32([1.0, 1.0, 3.0]))

    def points(x_t, t, label):
        places = ops.convert_to_tensor(np.float32([-1.0, 1.0, 0.0]))
        return ops.zeros_like(x_t) + ops.reshape(ops.take(places, label), (-1, 1))

    def denoiser(x_t, t):
        return guide(points, x_t, t, label, 2, scale)

    found = sample(denoiser, diffusion, initial_noise(0, (3, 2)), steps=5)
    np.testing.assert_allclose(to_numpy(found), [[-1, -1], [1, 1], [3, 3]], atol=1e-5)


# ---- names ------------------------------------------------------------------


def test_names_are_numbers(model):
    options = {"steps": 3, "seed": 0}
    by_name = model.generate(labels=["daisy", "rose"], **options)
    np.testing.assert_array_equal(by_name, model.generate(labels=[2, 0], **options))
    one = model.generate(2, labels="tulip", **options)
    np.testing.assert_array_equal(one, model.generate(2, labels=1, **options))


def test_names_survive_saving(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.label_names == list(NAMES)
    options = {"labels": "daisy", "steps": 3, "seed": 0}
    np.testing.assert_allclose(
        loaded.generate(1, **options), model.generate(1, **options), atol=1e-6
    )


# ---- wrong input ------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"guidance_scale": 2.0}, "guidance_scale=2.0 needs labels"),
        ({"guidance_scale": -1.0, "labels": 0}, "guidance_scale=-1.0 must be finite and at least"),
        ({"guidance_scale": float("nan"), "labels": 0}, "guidance_scale=nan must be finite"),
        ({"guidance_scale": [1.0, 2.0, 3.0], "labels": 0}, "must be one number, or 2 of them"),
        ({"guidance_scale": "2", "labels": 0}, "guidance_scale='2' must be one number"),
        ({"labels": "dasy"}, "'dasy' is not among the 3 label_names, did you mean 'daisy'"),
        ({"labels": ["rose", "oak"]}, "'oak' is not among the 3 label_names"),
        ({"labels": ["rose"]}, "must be one class, or 2 of them"),
    ],
)
def test_wrong_labels_and_scales(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model.generate(2, **kwargs)


def test_a_model_that_never_saw_no_label_cannot_be_guided():
    model = make_model(label_dropout=0.0)
    with pytest.raises(ValueError, match="label_dropout=0. Train with label_dropout=0.1"):
        model.generate(1, labels=0, guidance_scale=2.0)


def test_names_need_a_model_that_has_them():
    model = DiffusionModel(tiny_network(num_classes=3), GaussianDiffusion(20, "cosine"))
    with pytest.raises(ValueError, match="are names, but the model has no label_names"):
        model.generate(1, labels="rose")


@pytest.mark.parametrize("names", [["rose"], ["rose", "rose", "tulip"]])
def test_each_class_has_a_name_of_its_own(names):
    with pytest.raises(ValueError, match="the network has 3 classes: give each class a name"):
        DiffusionModel(
            tiny_network(num_classes=3), GaussianDiffusion(20, "cosine"), label_names=names
        )


def test_an_unconditional_network_has_no_names():
    with pytest.raises(ValueError, match="the network has no classes"):
        DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"), label_names=["rose"])
