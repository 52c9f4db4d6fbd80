"""A model in another precision: the same images, nearly, on every backend; and nothing else."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import random_weights, to_numpy

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp, build_unet
from keras_ddpm.checkpoints import open_model
from keras_ddpm.precision import model_in, network_in


@pytest.fixture
def model():
    network = build_unet(8, 3, (8, 16), (False, True), 1, num_heads=2, num_classes=3)
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, label_names=("rose", "tulip", "iris"), seed=3)
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    model.data_mean.assign([0.1, 0.2, -0.3])
    return model


def compute_dtypes(network):
    return {layer.name: layer.compute_dtype for layer in network.layers if layer.weights}


def test_its_images_are_nearly_the_same(model):
    asked = {"num_images": 3, "labels": [0, 1, 2], "steps": 5, "seed": 0}
    other = model_in(model, "mixed_bfloat16")
    wanted, images = model.generate(**asked), other.generate(**asked)
    assert images.dtype == "float32"
    assert 0 < np.abs(images - wanted).max() < 0.1
    for name, dtype in compute_dtypes(other.ema_network).items():
        assert dtype == ("float32" if name == "conv_out" else "bfloat16"), name
    assert set(compute_dtypes(model.ema_network).values()) == {"float32"}


def test_there_and_back_is_the_same_model(model):
    back = model_in(model_in(model, "mixed_bfloat16"), "float32")
    for one, other in (
        (model.network, back.network),
        (model.ema_network, back.ema_network),
    ):
        for a, b in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    np.testing.assert_array_equal(to_numpy(model.data_mean), to_numpy(back.data_mean))
    assert back.label_names == model.label_names
    asked = {"labels": ["iris", "rose"], "steps": 3, "seed": 0, "guidance_scale": 2.0}
    np.testing.assert_array_equal(model.generate(**asked), back.generate(**asked))


def test_a_network_of_points():
    network = random_weights(build_mlp(2, 16, 2))
    x_t, t = np.ones((2, 2), "float32"), np.array([1, 30])
    output = network_in(network, "mixed_bfloat16")([x_t, t])
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    wanted = to_numpy(network([x_t, t]))
    assert 0 < np.abs(to_numpy(output) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_a_file_or_a_preset_is_opened_in_it(model, tmp_path):
    model.compile(optimizer="adam", loss="mse")
    model.save(tmp_path / "model.keras")
    preset = model.save_to_preset(tmp_path / "preset")
    for source in (tmp_path / "model.keras", preset):
        found = open_model(source, "mixed_bfloat16")
        assert compute_dtypes(found.ema_network)["conv_in"] == "bfloat16"
        assert compute_dtypes(open_model(source).ema_network)["conv_in"] == "float32"


def test_it_trains(model):
    other = model_in(model, "mixed_bfloat16")
    other.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    images = np.zeros((8, 8, 8, 3), "uint8")
    history = other.fit(images, np.zeros(8, "int32"), batch_size=4, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_weights_stay_float32(model, policy):
    with pytest.raises(ValueError, match=f"'{policy}' has weights in {policy}; give 'float32', "):
        model_in(model, policy)


def test_an_unknown_policy(model):
    with pytest.raises(ValueError, match="float31"):
        model_in(model, "float31")


def test_from_the_command_line(model, tmp_path):
    preset = model.save_to_preset(tmp_path / "preset")
    command = [sys.executable, "examples/sample.py", preset, "--num_images", "2", "--steps", "2"]
    run = subprocess.run(
        [*command, "--dtype_policy", "mixed_bfloat16", "--output", tmp_path / "a"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "a" / "grid.png").exists()
    run = subprocess.run(
        [*command, "--dtype_policy", "float31", "--output", tmp_path / "b"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "float31" in run.stderr and "Traceback" not in run.stderr
