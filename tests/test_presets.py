"""Presets: what sampling needs, on disk in half precision, and back in another process."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import random_weights, tiny_network, to_numpy
from keras import layers

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet
from keras_ddpm.checkpoints import open_model
from keras_ddpm.presets import CARD, CONFIG, WEIGHTS, list_presets, named_weights

NAMES = ("rose", "tulip", "iris")


@pytest.fixture
def model():
    network = build_unet(8, 3, (8, 16), (False, True), 1, num_heads=2, num_classes=3)
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, label_names=NAMES, seed=3)
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    model.data_mean.assign([0.1, 0.2, -0.3])
    return model


@pytest.fixture
def preset(model, tmp_path):
    return model.save_to_preset(tmp_path / "garden", "Grown *at home*.", dtype="float32")


def test_it_comes_back_with_its_averaged_weights(model, preset):
    found = DiffusionModel.from_preset(preset)
    wanted = named_weights(model.ema_network)
    for network in (found.network, found.ema_network):
        for name, weight in named_weights(network).items():
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(wanted[name]), err_msg=name)
    np.testing.assert_allclose(to_numpy(found.data_mean), [0.1, 0.2, -0.3], rtol=1e-6)
    configs = [json.loads(json.dumps(m.get_config())) for m in (model, found)]
    for config in configs:
        config["network"] = [layer["name"] for layer in config["network"]["config"]["layers"]]
    assert configs[0] == configs[1]


def test_it_gives_the_same_images(model, preset):
    asked = {"labels": ["iris", "rose"], "guidance_scale": 2.0, "steps": 3, "seed": 0}
    images = DiffusionModel.from_preset(preset).generate(**asked)
    np.testing.assert_allclose(images, model.generate(**asked), atol=1e-5)


def test_half_precision_is_half_as_long_and_close(model, preset, tmp_path):
    half = model.save_to_preset(tmp_path / "half")
    assert (half / WEIGHTS).stat().st_size < 0.6 * (preset / WEIGHTS).stat().st_size
    one, other = DiffusionModel.from_preset(preset), DiffusionModel.from_preset(half)
    for a, b in zip(one.ema_network.get_weights(), other.ema_network.get_weights()):
        np.testing.assert_allclose(a, b, rtol=2.0**-11, atol=1e-7)
        assert b.dtype == np.float32


@pytest.mark.needs("tensorflow", "jax")
def test_another_process_and_backend_reads_it(model, preset, tmp_path):
    backend = {"tensorflow": "jax", "jax": "tensorflow", "torch": "tensorflow"}[
        keras.backend.backend()
    ]
    code = (
        "import sys, numpy as np; from keras_ddpm import DiffusionModel\n"
        "images = DiffusionModel.from_preset(sys.argv[1]).generate(2, labels=1, steps=3, seed=0)\n"
        "np.save(sys.argv[2], images)"
    )
    subprocess.run(
        [sys.executable, "-c", code, preset, tmp_path / "images.npy"],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    expected = model.generate(2, labels=1, steps=3, seed=0)
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-3)


def test_the_card_says_what_it_is(model, preset):
    card = (preset / CARD).read_text()
    assert card.startswith("# garden\n\nGrown *at home*.\n")
    parameters = f"parameters: {model.network.count_params():,}"
    for fact in (parameters, "8x8x3", "20 cosine steps, predicts velocity", "3: rose, tulip, iris"):
        assert fact in card


def test_it_can_be_trained_on(preset):
    model = DiffusionModel.from_preset(preset)
    before = model.network.get_weights()
    model.compile(keras.optimizers.Adam(1e-3))
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    model.fit(images, np.arange(8) % 3, batch_size=4, epochs=1, verbose=0)
    assert not any(map(np.array_equal, before, model.network.get_weights()))


def test_any_network_can_be_a_preset(tmp_path):
    model = DiffusionModel(tiny_network(), GaussianDiffusion(5, "cosine"))
    found = DiffusionModel.from_preset(model.save_to_preset(tmp_path / "a", dtype="float32"))
    for a, b in zip(found.ema_network.get_weights(), model.ema_network.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_open_model_takes_a_file_or_a_preset(model, preset, tmp_path):
    model.save(tmp_path / "model.keras")
    for source in (tmp_path / "model.keras", str(preset)):
        found = open_model(source)
        np.testing.assert_array_equal(
            found.ema_network.get_weights()[0], model.ema_network.get_weights()[0]
        )
    with pytest.raises(FileNotFoundError, match="there is no file .*missing.keras"):
        open_model(tmp_path / "missing.keras")


@pytest.mark.parametrize("name", list_presets())
def test_those_that_ship_draw_images(name):
    model = DiffusionModel.from_preset(name)
    images = model.generate(2, steps=2, seed=0)
    assert images.shape == (2, *model.sample_shape)
    assert np.isfinite(images).all() and images.std() > 0.1


# ---- mistakes --------------------------------------------------------------------------------


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="there is no preset 'rosse'.*nor one of \\["):
        DiffusionModel.from_preset("rosse")
    with pytest.raises(FileNotFoundError, match="did you mean 'drawn_flowers_16'"):
        DiffusionModel.from_preset("drawn_flower_16")


def test_missing_weights(preset):
    (preset / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {WEIGHTS}"):
        DiffusionModel.from_preset(preset)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_truncated_file(preset, file):
    (preset / file).write_bytes((preset / file).read_bytes()[:-20])
    with pytest.raises(ValueError, match="garden' is damaged"):
        DiffusionModel.from_preset(preset)


def test_weights_of_another_network(preset, tmp_path):
    other = DiffusionModel(tiny_network(), GaussianDiffusion(5, "cosine"))
    other = other.save_to_preset(tmp_path / "other")
    (other / WEIGHTS).replace(preset / WEIGHTS)
    with pytest.raises(ValueError, match="not those of its network: .* names are in one of them"):
        DiffusionModel.from_preset(preset)


def test_an_unknown_dtype(model, tmp_path):
    with pytest.raises(ValueError, match="dtype='float8' is unknown"):
        model.save_to_preset(tmp_path / "a", dtype="float8")
    assert not (tmp_path / "a").exists()


def test_weights_too_large_for_half_precision(model, tmp_path):
    model.ema_network.weights[0].assign(to_numpy(model.ema_network.weights[0]) + 1e6)
    with pytest.raises(ValueError, match="not finite in float16"):
        model.save_to_preset(tmp_path / "a")
    assert not (tmp_path / "a" / CONFIG).exists()


def test_a_folder_that_cannot_be_made(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to"):
        model.save_to_preset(tmp_path / "file")


def test_names_that_are_not_unique_are_refused():
    # Layers built outside a functional model may share a path.
    class Twins(layers.Layer):
        def build(self, shape):
            self.one, self.two = (layers.Dense(2, name="dense") for _ in range(2))
            self.one.build(shape)
            self.two.build(shape)

        def call(self, x):
            return self.two(self.one(x))

    x = keras.Input((2,))
    with pytest.raises(ValueError, match="4 weights of 'twins' share 2 names"):
        named_weights(keras.Model(x, Twins()(x), name="twins"))


def test_the_config_is_plain_json(preset):
    assert json.loads((preset / CONFIG).read_text())["label_names"] == list(NAMES)
