"""The callback that measures samples: what it logs and draws, and that training goes on as ever."""

import csv
import math
import warnings

import keras
import numpy as np
import pytest
from conftest import assert_same_states, states, tiny_network
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.metrics import EvaluateSamples, extract, frechet_distance, kernel_distance
from keras_ddpm.metrics import callback as module
from keras_ddpm.metrics.nearest import nearest_grid, nearest_neighbours

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype="uint8")


def quarters(images):
    """Four features: mean brightness of each quarter."""
    images = images.astype("float64")
    return images.reshape(len(images), 2, 4, 2, -1).mean((2, 4)).reshape(len(images), 4)


def tiny_model(num_classes=None, size=8):
    network = tiny_network(size=size, num_classes=num_classes, dropout=0.2)
    model = DiffusionModel(network, GaussianDiffusion(8, beta_start=0.05, beta_end=0.8), seed=0)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    return model


def fit(model, callbacks, epochs=2, y=None):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    return model.fit(IMAGES, y, epochs=epochs, **options).history


def test_training_does_not_notice():
    results = []
    options = {"every": 1, "num_images": 6, "sampler": "ddpm", "steps": 3}
    for callbacks in ([], [EvaluateSamples(quarters, IMAGES, **options)]):
        keras.utils.set_random_seed(0)
        model = tiny_model()
        fit(model, callbacks)
        results.append(states(model))
    assert_same_states(*results)


def test_distances_are_logged_and_neighbours_drawn(tmp_path):
    model = tiny_model()
    folder = tmp_path / "new" / "pictures"
    evaluate = EvaluateSamples(
        quarters, IMAGES, every=2, num_images=20, steps=2, seed=5, directory=folder
    )
    history = fit(model, [evaluate, keras.callbacks.CSVLogger(tmp_path / "log.csv")], epochs=4)
    samples = model.generate(20, steps=2, seed=5)
    features, data = extract(quarters, samples), quarters(IMAGES)
    expected = frechet_distance(features, data), *kernel_distance(features, data)

    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, value in zip(("frechet", "kernel", "kernel_error"), expected):
        logged = [float(row[name]) for row in rows]
        assert [math.isnan(x) for x in logged] == [True, False, True, False]
        assert logged[-1] == history[name][-1] == pytest.approx(value, rel=1e-4)

    assert sorted(p.name for p in folder.iterdir()) == ["nearest_0002.png", "nearest_0004.png"]
    shown = samples[: module.SHOWN]
    grid = nearest_grid(shown, IMAGES, nearest_neighbours(shown, IMAGES)[0])
    with Image.open(folder / "nearest_0004.png") as picture:
        found = np.asarray(picture, "int32")
    assert np.abs(found - grid[..., 0]).max() <= 1


@pytest.mark.parametrize("nearest, limit, drawn", [("auto", 11, 0), (True, 11, 1), (False, 99, 0)])
def test_neighbours_are_drawn_of_small_sets(tmp_path, monkeypatch, nearest, limit, drawn):
    monkeypatch.setattr(module, "MOST_NEAREST_IMAGES", limit)
    options = {"every": 1, "num_images": 6, "steps": 1, "nearest": nearest}
    fit(tiny_model(), [EvaluateSamples(quarters, IMAGES, directory=tmp_path, **options)], 1)
    assert len(list(tmp_path.iterdir())) == drawn


def test_samples_go_through_the_classes_or_are_guided():
    model, labels = tiny_model(num_classes=3), np.arange(12, dtype="int32") % 3
    for options in ({}, {"labels": 1, "guidance_scale": 2.0}):
        evaluate = EvaluateSamples(quarters, IMAGES, every=1, num_images=7, steps=2, **options)
        found = fit(model, [evaluate], 1, y=labels)["frechet"][0]
        options.setdefault("labels", np.arange(7) % 3)
        samples = model.generate(7, steps=2, seed=0, **options)
        expected = frechet_distance(extract(quarters, samples), quarters(IMAGES))
        assert found == pytest.approx(expected, rel=1e-4)


def test_data_are_measured_once_and_thinned_for_the_kernel(monkeypatch):
    monkeypatch.setattr(module, "MOST_KERNEL_IMAGES", 4)
    calls = []

    def counted(images):
        calls.append(len(images))
        return quarters(images)

    evaluate = EvaluateSamples(counted, IMAGES, every=1, num_images=6, steps=1)
    fit(tiny_model(), [evaluate], epochs=3)
    assert calls == [12, 4, 6, 6, 6]
    np.testing.assert_array_equal(evaluate.reference_features, quarters(IMAGES[[0, 4, 7, 11]]))


def test_few_samples_are_warned_of_once():
    with pytest.warns(UserWarning, match="num_images: 4 samples of 4 features") as caught:
        fit(tiny_model(), [EvaluateSamples(quarters, IMAGES, every=1, num_images=4, steps=1)])
    assert len([w for w in caught if "features" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*samples of")
        fit(tiny_model(), [EvaluateSamples(quarters, IMAGES, every=1, num_images=5, steps=1)])


@pytest.mark.once
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"extractor": "lenet"}, TypeError, "extractor must be a function"),
        ({"images": IMAGES[0]}, ValueError, "images must be"),
        ({"images": IMAGES[:2]}, ValueError, "at least 3, got 2"),
        ({"every": 0}, ValueError, "every"),
        ({"num_images": 2}, ValueError, "num_images must be at least 3"),
        ({"sampler": "dimm"}, ValueError, "did you mean 'ddim'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_refuses_when_it_is_made(options, error, message):
    with pytest.raises(error, match=message):
        EvaluateSamples(**{"extractor": quarters, "images": IMAGES, **options})


def test_refuses_several_processes(monkeypatch):
    monkeypatch.setattr("keras_ddpm.metrics.callback.process", lambda: (0, 2))
    with pytest.raises(ValueError, match="measures in a single process"):
        fit(tiny_model(), [EvaluateSamples(quarters, IMAGES)])


def test_refuses_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    model = tiny_model()
    before = states(model)
    for options, error, message in (
        ({"steps": 9}, ValueError, "steps=9"),
        ({"images": IMAGES[:, 1:]}, ValueError, "do not compare"),
        ({"labels": 0}, ValueError, "no classes"),
        ({"guidance_scale": 2.0}, ValueError, "needs labels"),
        ({"directory": tmp_path / "file"}, OSError, "Choose another folder"),
        ({"extractor": lambda images: images}, ValueError, "output must be 2-D"),
    ):
        callback = EvaluateSamples(**{"extractor": quarters, "images": IMAGES, **options})
        with pytest.raises(error, match=message):
            fit(model, [callback])
    assert_same_states(before, states(model))
