"""The tutorial in the form of keras.io's examples: it runs alone, learns, and is in that form."""

import re

import keras
import matplotlib
import numpy as np
import pytest
from tools import ROOT

from keras_ddpm import GaussianDiffusion, save_image
from keras_ddpm.data import draw_flowers

PATH = ROOT / "examples" / "keras_io" / "ddpm.py"
SMALL = {
    "image_size": 16,
    "batch_size": 8,
    "num_epochs": 2,
    "learning_rate": 2e-3,
    "ema_decay": 0.5,
    "timesteps": 10,
    "widths": [16, 16],
    "has_attention": [False, True],
    "num_res_blocks": 1,
    "num_samples": 2,
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The names of the script after it ran with small numbers, on drawn photographs."""
    folder = tmp_path_factory.mktemp("keras_io")
    for i, image in enumerate(draw_flowers(24, image_size=40)[0]):
        save_image(folder / f"{i:02d}.jpg", image[:32])
    text = PATH.read_text()
    for name, value in SMALL.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
        assert count == 1, name
    matplotlib.use("agg")
    names = {"__name__": "ddpm"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.utils, "get_file", lambda *args, **kwargs: folder)
        patch.chdir(folder)
        exec(compile(text, str(PATH), "exec"), names)
        names["loaded"] = keras.saving.load_model("ddpm.keras")
    return names


def test_it_trains_and_draws_what_is_saved(script):
    model, images = script["model"], script["images"]
    assert images.shape == (24, 16, 16, 3) and -1 <= images.min() < images.max() <= 1
    losses = model.history.history["loss"]
    assert losses[1] < losses[0] < 1.5
    assert not np.array_equal(model.network.get_weights()[0], model.ema_network.get_weights()[0])
    drawn = model.generate(2, seed=1)
    assert drawn.shape == (2, 16, 16, 3) and np.isfinite(drawn).all() and drawn.std() > 0.05
    np.testing.assert_array_equal(drawn, model.generate(2, seed=1))
    for saved, average in zip(script["loaded"].get_weights(), model.ema_network.get_weights()):
        np.testing.assert_array_equal(saved, average)


def test_averages_follow_each_step(script):
    model = script["model"]
    before = model.ema_network.get_weights()
    model.train_on_batch(script["images"][:8])
    weights = model.network.get_weights()  # after the step; the average took those before it
    after = model.ema_network.get_weights()
    moved = [np.abs(a - b).max() for a, b in zip(after, before)]
    assert max(moved) > 0
    model.train_on_batch(script["images"][:8])
    for average, new, weight in zip(after, model.ema_network.get_weights(), weights):
        np.testing.assert_allclose(new, 0.5 * average + 0.5 * weight, atol=1e-6)


@pytest.mark.filterwarnings("ignore:this schedule keeps")
def test_its_formulas_are_those_of_the_package(script):
    ours, theirs = GaussianDiffusion(betas=script["diffusion"].betas), script["diffusion"]
    rng = np.random.default_rng(0)
    x_0 = rng.uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    noise = rng.standard_normal(x_0.shape).astype("float32")
    for step in (0, 4, 9):
        t = np.full(2, step, "int32")
        x_t = ours.q_sample(x_0, t, noise)
        np.testing.assert_allclose(theirs.q_sample(x_0, t, noise), x_t, atol=1e-5)
        mean, variance, _ = ours.q_posterior_mean_variance(x_0, x_t, t)
        found = theirs.p_mean(np.asarray(x_t), step, noise)
        np.testing.assert_allclose(found, mean, atol=1e-4)
        np.testing.assert_allclose(theirs.variances[step], np.asarray(variance)[0], atol=1e-6)


@pytest.mark.once
def test_it_has_the_form_of_an_example_of_keras_io():
    lines = PATH.read_text().splitlines()
    assert len(lines) <= 400 and max(map(len, lines)) <= 88
    keys = [line.partition(":")[0] for line in lines[1:7]]
    expected = ["Title", "Author", "Date created", "Last modified", "Description", "Accelerator"]
    assert lines[0] == '"""' and keys == expected and lines[7] == '"""'
    imports = re.findall(r"^(?:import|from) (\w+)", PATH.read_text(), re.M)
    assert set(imports) == {"math", "pathlib", "keras", "matplotlib", "numpy"}
