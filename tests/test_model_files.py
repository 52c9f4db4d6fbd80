"""A model saved and loaded again, here and in another process."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import assert_same_states, states, to_numpy
from tiny_training import FLOATS, LABELS, distance, fit, make_model

from keras_ddpm import GaussianDiffusion

IN_A_FRESH_PROCESS = """
import sys
import keras
import numpy as np
import keras_ddpm
from conftest import states

model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[2], data_mean=model.data_mean.numpy(), **states(model))
"""


def trained(num_classes=3):
    model = make_model(num_classes=num_classes, dropout=0.2, seed=5)
    fit(model, FLOATS, LABELS if num_classes else None, epochs=2)
    return model


def test_a_saved_model_loads_in_a_fresh_process_with_every_state(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path / "model.keras", tmp_path / "s.npz"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        check=True,
    )
    found, expected = dict(np.load(tmp_path / "s.npz")), states(model)
    np.testing.assert_array_equal(found.pop("data_mean"), to_numpy(model.data_mean))
    assert_same_states(found, expected)
    assert distance(model.network.get_weights(), model.ema_network.get_weights()) > 1e-4


def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [fit(m, FLOATS, LABELS, epochs=2) for m in (model, loaded)]
    assert losses[0] == losses[1]
    assert_same_states(states(model), states(loaded))
    images = [m.generate(labels=[0, 1], steps=3, seed=0) for m in (model, loaded)]
    np.testing.assert_array_equal(*images)


def test_options_survive_saving(tmp_path):
    diffusion = GaussianDiffusion(betas=[0.2, 0.5, 0.99], prediction="velocity", variance="beta")
    model = make_model(diffusion=diffusion, num_classes=3, ema_decay=0.7, label_dropout=0.4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.diffusion.get_config() == diffusion.get_config()
    assert (loaded.ema_decay, loaded.label_dropout, loaded.num_classes) == (0.7, 0.4, 3)
    assert loaded.loss == "mse"


@pytest.mark.parametrize("choice", ["auto", False])
def test_a_file_leaves_jit_compile_to_the_next_backend_unless_chosen(tmp_path, choice):
    model = make_model(compile_kwargs={"jit_compile": choice})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_compile_config()["jit_compile"] == choice
    assert loaded.jit_compile == model.jit_compile
