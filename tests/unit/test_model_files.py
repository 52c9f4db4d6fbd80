"""A model saved and loaded: by another process that trains on, with its options, and damaged."""

import errno
import io
import json
import os
import zipfile

import keras
import numpy as np
import pytest
from tools import FLOATS, LABELS, ROOT, assert_same_states, fit, make_model, run_python, states

from keras_ddpm import DiffusionModel, GaussianDiffusion, load_diffusion_model

IN_ANOTHER_PROCESS = """
import sys
from test_model_files import *

model = load_diffusion_model(sys.argv[1])
np.savez(sys.argv[2], **states(model))
np.savez(sys.argv[3], **train(model), **states(model))
"""


def train(model):
    losses = fit(model, FLOATS, LABELS, epochs=2)
    return {"losses": losses, "images": model.generate(labels=[0, 1], steps=3, seed=0)}


@pytest.fixture(scope="module")
def model():
    model = make_model(3, dropout=0.2, seed=5)
    train(model)
    return model


def test_another_process_loads_every_state_and_trains_on_as_this_one(model, tmp_path):
    model.save(tmp_path / "model.keras")
    files = [tmp_path / name for name in ("model.keras", "loaded.npz", "trained.npz")]
    paths = f"{ROOT}/tests/unit:{ROOT}/tests:{ROOT}"
    run_python("-c", IN_ANOTHER_PROCESS, *files, PYTHONPATH=paths)
    loaded, trained = (dict(np.load(path)) for path in files[1:])
    assert_same_states(loaded, states(model))
    assert not np.array_equal(loaded["network_0"], loaded["ema_0"])
    for name, expected in train(model).items():
        np.testing.assert_array_equal(trained.pop(name), expected)
    assert_same_states(trained, states(model))


@pytest.mark.parametrize("jit_compile", ["auto", False])  # "auto": the next backend may choose
def test_options_survive(tmp_path, jit_compile):
    diffusion = GaussianDiffusion(betas=[0.2, 0.5, 0.99], prediction="velocity", variance="beta")
    options = {"ema_decay": 0.7, "label_dropout": 0.4, "min_snr_gamma": 5, "class_names": [*"ab"]}
    model = make_model(2, diffusion=diffusion, compile={"jit_compile": jit_compile}, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config().items() >= options.items()
    assert loaded.diffusion.get_config() == diffusion.get_config()
    assert loaded.get_compile_config() == model.get_compile_config()
    assert (loaded.loss, loaded.jit_compile) == ("mse", model.jit_compile)
    # Not the class that PyTorch has for it, which other backends could not load.
    assert model.get_compile_config()["optimizer"]["module"] == "keras.optimizers"


@pytest.mark.once
def test_damaged_files_are_refused(model, tmp_path):
    """Truncated ones, and those of other models, are tried with the sampling command."""
    path = tmp_path / "damaged.keras"
    model.save(path)
    whole, half = path.read_bytes(), path.stat().st_size // 2
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    without = {**config, "config": {**config["config"], "diffusion": None}}

    def zipped(**changes):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in {**parts, **changes}.items():
                file.writestr(name, content)
        return archive.getvalue()

    for content, message in (
        (zipped(**{"config.json": b"[1, 2]"}), "cannot be loaded"),
        (zipped(**{"config.json": b"{"}), "cannot be loaded: JSONDecodeError"),
        (zipped(**{"config.json": json.dumps(without)}), "the configuration has no diffusion"),
        (zipped(**{"model.weights.h5": b"no HDF5"}), "damaged.keras' cannot be loaded|file signat"),
        (whole[:half] + b"spoiled" + whole[half + 7 :], "is damaged, truncated, or no .keras file"),
        (b"PK\5\6" + bytes(18), "a zip file, but not one that Keras wrote"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_diffusion_model(path)


@pytest.mark.once
def test_a_subclass_is_loaded_and_other_names_of_files_are_refused(model, tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Mine(DiffusionModel):
        pass

    Mine(make_model().network, model.diffusion).save(tmp_path / "mine.keras")
    assert type(load_diffusion_model(tmp_path / "mine.keras")) is Mine
    for name in ("a.h5", "a", "a.weights.h5", "a.tf"):
        with pytest.raises(ValueError, match=rf"^filepath='.*{name}' must end with .keras"):
            model.save(tmp_path / name)


@pytest.mark.once
def test_a_file_that_cannot_be_written_leaves_the_old_one(model, tmp_path, monkeypatch):
    def fills_the_disk(model, filepath, *args, **kwargs):
        with open(filepath, "wb") as file:
            file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "model.keras"
    model.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(keras.Model, "save", fills_the_disk)
    with pytest.raises(OSError, match="No space left on device: '.*model.keras'"):
        model.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
