"""Presets: what sampling needs, on disk in half precision, and read again on any backend."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import load, save
from tools import FLOATS, fit, make_model, random_weights, tiny_network, to_numpy

from keras_ddpm import (
    DDIM,
    DiffusionModel,
    DPMSolverPlusPlus,
    GaussianDiffusion,
    UNet,
    list_presets,
    presets,
)
from keras_ddpm.presets import CARD, CONFIG, WEIGHTS, named_weights
from keras_ddpm.samplers import sampler_config

NAMES = ["rose", "tulip", "iris"]
HEAD = """---
library_name: keras_ddpm
tags:
- diffusion
- keras_ddpm
pipeline_tag: unconditional-image-generation
---
"""


@pytest.fixture(scope="module")
def model():
    network = UNet(8, 3, (4, 8), (False, True), 1, 2, num_heads=2, num_classes=3)
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, class_names=NAMES, seed=3)
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    model.data_mean.assign([0.1, 0.2, -0.3])
    model.updates.assign(7)
    return model


@pytest.fixture(scope="module")
def preset(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "garden"
    return model.save_to_preset(folder, "Grown *at home*.", dtype="float32")


def test_it_comes_back_with_its_averaged_weights_and_options(model, preset):
    loaded, expected = DiffusionModel.from_preset(preset), named_weights(model.ema_network)
    for network in (loaded.network, loaded.ema_network):
        for name, weight in named_weights(network).items():
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(expected[name]), err_msg=name)
    np.testing.assert_allclose(to_numpy(loaded.data_mean), [0.1, 0.2, -0.3], rtol=1e-6)
    assert int(to_numpy(loaded.updates)) == 7
    assert loaded.get_config() == model.get_config()


def test_a_model_keeps_the_sampler_that_it_draws_with(preset, tmp_path):
    """In a preset and in a file; another sampler, or options, take its place."""
    loaded, own = DiffusionModel.from_preset(preset), DPMSolverPlusPlus(timesteps=(19, 5), eta=1.0)
    assert loaded.sampler is None
    config = {**loaded.get_config(), "sampler": sampler_config(own)}
    model = DiffusionModel.from_config(config)
    model.ema_network.set_weights(loaded.ema_network.get_weights())
    model.save_to_preset(tmp_path / "own", dtype="float32")
    model.save(tmp_path / "own.keras")
    copies = [DiffusionModel.from_preset(tmp_path / "own")]
    copies.append(keras.saving.load_model(tmp_path / "own.keras"))
    copies.append(model.with_dtype_policy("float32"))
    expected = loaded.generate(2, seed=0, sampler=own)
    for copy in copies:
        assert copy.sampler == own
        np.testing.assert_array_equal(copy.generate(2, seed=0), expected)
    plain = loaded.generate(2, seed=0, sampler="ddim", steps=2)
    np.testing.assert_array_equal(model.generate(2, seed=0, steps=2), plain)
    np.testing.assert_array_equal(model.generate(2, seed=0, steps=2, eta=None), plain)
    with pytest.raises(ValueError, match="timesteps=.*19"):
        DiffusionModel(model.network, model.diffusion, sampler=DDIM(timesteps=(20, 1)))
    with pytest.raises(ValueError, match="steps=30 is more than the 20 timesteps"):
        DiffusionModel(model.network, model.diffusion, sampler=DDIM(30))


def test_half_precision_takes_half_the_bytes_and_is_close(model, preset, tmp_path):
    half = model.save_to_preset(tmp_path / "half")
    assert (half / WEIGHTS).stat().st_size < 0.7 * (preset / WEIGHTS).stat().st_size
    weights = DiffusionModel.from_preset(half).ema_network.get_weights()
    for found, expected in zip(weights, model.ema_network.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2.0**-11, atol=1e-7)
        assert found.dtype == np.float32


def test_any_network_can_be_a_preset_and_be_trained_on(tmp_path):
    model = make_model()
    found = DiffusionModel.from_preset(model.save_to_preset(tmp_path / "a", dtype="float32"))
    before = found.network.get_weights()
    assert all(map(np.array_equal, before, model.ema_network.get_weights()))
    found.compile()
    fit(found)
    assert not any(map(np.array_equal, before, found.network.get_weights()))


@pytest.mark.once
def test_config_and_card_say_what_it_is(model, preset):
    for folder in (preset, *(Path(presets.__file__).parent / name for name in list_presets())):
        assert (folder / CARD).read_text().startswith(HEAD)
        text = (folder / CONFIG).read_text()
        config = json.loads(text)
        assert len(text) <= 3000 and config["format_version"] == presets.FORMAT_VERSION
        assert re.fullmatch(r"3\.\d+\.\d+", config["keras_version"])
        num_classes = config["network"]["config"]["num_classes"]
        assert len(config["class_names"] or "") == (num_classes or 0)
    assert json.loads((preset / CONFIG).read_text())["keras_version"] == keras.__version__
    card = (preset / CARD).read_text()
    assert "---\n\n# garden\n\nGrown *at home*.\n" in card
    parameters = f"parameters: {model.network.count_params():,}, averaged weights in float32"
    for fact in (parameters, "8x8x3", "20 cosine steps, predicts velocity", "3: rose, tulip, iris"):
        assert fact in card


@pytest.mark.parametrize("name", list_presets())
def test_those_that_ship_draw_images(name):
    model = DiffusionModel.from_preset(name)
    label = None if model.num_classes is None else 1
    condition = None
    if model.condition_shape:
        condition = np.random.default_rng(0).uniform(-1, 1, (1, *model.condition_shape))
    images = model.generate(1, label, steps=2, seed=0, condition=condition)
    assert images.shape == (1, *model.sample_shape)
    assert np.isfinite(images).all() and images.std() > 0.1


def changed(file, change):
    """A function that changes the bytes of a file of a preset."""
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def with_part(part, value):
    return lambda text: json.dumps({**json.loads(text), part: value}).encode()


def with_weight(name, value):
    return changed(WEIGHTS, lambda data: save({**load(data), name: value}))


@pytest.mark.once
@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "neither a folder with config.json and model"),
        (changed(CONFIG, lambda text: text[:-20]), "garden' is damaged"),
        (changed(CONFIG, lambda text: text.replace(b"format_v", b"v")), "is damaged: KeyError"),
        (changed(CONFIG, lambda text: text.replace(b'version": 1', b'version": 2')), "version=2"),
        (changed(CONFIG, lambda _: b"[1, 2]"), "garden' is damaged: TypeError"),
        (changed(CONFIG, lambda _: b"null"), "garden' is damaged: AttributeError"),
        (changed(CONFIG, lambda _: b"[" * 10**6), "garden' is damaged: RecursionError"),
        (changed(CONFIG, lambda _: b"\xff\xfe"), "garden' is damaged: UnicodeDecodeError"),
        (
            changed(CONFIG, with_part("diffusion", None)),
            "config.json cannot be read: .* no diffusion",
        ),
        (changed(CONFIG, with_part("network", None)), "config.json cannot be read: .* no network"),
        (changed(CONFIG, with_part("frozen", "x")), "frozen='x' must be a list of paths"),
        (with_weight("updates", np.array(-5)), "'updates' .* must be finite ints"),
        (with_weight("updates", np.array(2.5)), "'updates' .* must be finite ints"),
        (with_weight("data_mean", np.array([1e300])), "'data_mean' .* must be finite floats"),
        (with_weight("data_mean", np.array([3])), "'data_mean' .* must be finite floats"),
        (changed(WEIGHTS, lambda data: data[:-20]), "garden' is damaged"),
        (changed(WEIGHTS, lambda data: data[:-8] + b"\xff" * 8), "must be finite (ints|floats)"),
        (changed(WEIGHTS, lambda _: save({"kernel": FLOATS})), "weights are in one of config.json"),
    ],
)
def test_a_damaged_preset_is_refused(preset, tmp_path, spoil, message):
    folder = shutil.copytree(preset, tmp_path / "garden")
    spoil(folder)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        DiffusionModel.from_preset(folder)


@pytest.mark.once
@pytest.mark.parametrize(
    "name, message", [("rosse", "nor one of \\["), ("mnist_82", "did you mean 'mnist_28'")]
)
def test_an_unknown_name_lists_those_there_are(name, message):
    with pytest.raises(FileNotFoundError, match=f"there is no preset '{name}'.*{message}"):
        DiffusionModel.from_preset(name)


@pytest.mark.once
@pytest.mark.parametrize(
    "folder, dtype, error, message",
    [
        ("a", "float8", ValueError, "dtype='float8'"),
        ("a", "float16", ValueError, "dtype='float16' cannot hold some weights"),
        ("file/a", "float32", OSError, "cannot write to"),
        ("hf://a", "float32", ValueError, "must be a folder on this machine; `upload_preset`"),
    ],
)
def test_what_cannot_be_written_leaves_no_preset(tmp_path, folder, dtype, error, message):
    (tmp_path / "file").write_text("")
    model = DiffusionModel(tiny_network())
    model.ema_network.weights[0].assign(to_numpy(model.ema_network.weights[0]) + 1e6)
    with pytest.raises(error, match=message):
        model.save_to_preset(folder if ":" in folder else tmp_path / folder, dtype=dtype)
    assert not list(tmp_path.rglob(CONFIG))


@pytest.mark.once
def test_weights_must_have_names_of_their_own():
    x = keras.Input((2,))
    one, other = (keras.Model(x, layers.Dense(2, name="dense")(x)) for _ in range(2))
    with pytest.raises(ValueError, match="4 weights of 'twins' share 2 names"):
        named_weights(keras.Model(x, one(other(x)), name="twins"))
