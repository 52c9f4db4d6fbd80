"""Callbacks: what they write and log, and that they do not disturb the training."""

import csv
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image
from tools import (
    IMAGES,
    LABELS,
    assert_same_states,
    fit,
    make_model,
    resetting,
    states,
    tiny_network,
)

from keras_ddpm import SampleImages
from keras_ddpm.callbacks import Checkpoint, CSVLog, Throughput
from keras_ddpm.metrics import EvaluateSamples
from keras_ddpm.plotting import image_grid


@pytest.fixture(scope="module")
def fresh():
    """The same two models for all tests, as new, and compiled again."""
    models = {classes: resetting(make_model(classes, dropout=0.2)) for classes in (None, 3)}
    return lambda num_classes=None: models[num_classes]()


def test_samples_are_written_and_logged(fresh, tmp_path):
    model, folder = fresh(), tmp_path / "new" / "samples"
    samples = SampleImages(folder, every=2, num_images=4, steps=2, scale=3)
    log = CSVLog(tmp_path / "log.csv")
    history = model.fit(IMAGES, batch_size=4, epochs=4, verbose=0, callbacks=[samples, log]).history
    assert sorted(p.name for p in folder.iterdir()) == ["epoch_0002.png", "epoch_0004.png"]
    with Image.open(folder / "epoch_0002.png") as picture:
        assert picture.size == (3 * (2 * 8 + 3 * 2),) * 2 and picture.mode == "L"
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    means = [row["sample_mean_grey"] for row in rows]
    assert [bool(mean) for mean in means] == [False, True, False, True]  # else empty
    means = list(map(float, filter(None, means)))
    images = model.generate(4, sampler="ddim", steps=2, seed=0)
    np.testing.assert_allclose(means[-1], images.mean(), atol=1e-6)
    np.testing.assert_array_equal(samples.grid, image_grid(images))
    data_mean = float(rows[-1]["data_mean_grey"])
    np.testing.assert_allclose(data_mean, model.data_mean[0], atol=1e-6)
    assert history["sample_mean_grey"][-1] == means[-1]


def test_channels_of_colour_images_are_logged_by_name():
    samples, logs = SampleImages(num_images=2, steps=1, show=False), {}
    image = np.float32([0.5, 0.0, -0.5]) * np.ones((2, 4, 4, 1), "float32")
    model = types.SimpleNamespace(data_mean=keras.ops.ones(3), generate=lambda *_, **__: image)
    samples.set_model(model)
    samples.drawn_labels = None
    samples.on_epoch_end(0, logs)
    means = {"sample_mean_red": 0.5, "sample_mean_green": 0, "sample_mean_blue": -0.5}
    assert logs == means | {f"data_mean_{name}": 1 for name in ("red", "green", "blue")}


def test_samples_go_through_the_classes_and_are_guided(fresh, tmp_path):
    model = fresh(3)
    options = {"steps": 3, "guidance_scale": 3.0, "spacing": "linspace", "sampler": "ddpm"}
    samples = SampleImages(tmp_path, num_images=4, **options)
    fit(model, IMAGES, LABELS, callbacks=[samples])
    np.testing.assert_array_equal(samples.drawn_labels, [0, 1, 2, 0])
    expected = model.generate(labels=[0, 1, 2, 0], seed=0, **options)
    np.testing.assert_array_equal(samples.grid, image_grid(expected))


def test_samples_are_shown_in_a_notebook_only(fresh, monkeypatch):
    shown = []
    notebook = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    terminal = types.SimpleNamespace(get_ipython=lambda: object())
    display = types.SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for module, count in ((terminal, 0), (notebook, 1)):
        monkeypatch.setitem(sys.modules, "IPython", module)
        samples = SampleImages(num_images=2, steps=2)
        samples.set_model(fresh())
        samples.on_train_begin()
        samples.on_epoch_end(0)
        assert len(shown) == count
    assert isinstance(shown[0], Image.Image)


def test_only_the_first_of_several_processes_writes(fresh, tmp_path, monkeypatch):
    for module in ("sampling", "checkpoint"):
        monkeypatch.setattr(f"keras_ddpm.callbacks.{module}.is_chief", lambda: False)
    samples = SampleImages(tmp_path, num_images=2, steps=2)
    fit(fresh(), callbacks=[samples, Checkpoint(tmp_path)])
    assert samples.grid is not None  # which takes all of them
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused_before_the_first_step(fresh, tmp_path):
    for make, error, message in (
        (lambda: SampleImages(sampler="dimm"), ValueError, "did you mean 'ddim'"),
        (lambda: SampleImages(every=0), ValueError, "every=0"),
        (lambda: SampleImages(num_images=1.5), TypeError, "num_images=1.5"),
        (lambda: Checkpoint(tmp_path, keep=0), ValueError, "keep=0"),
        (lambda: Throughput(8, epochs=0), ValueError, "epochs=0"),
    ):
        with pytest.raises(error, match=message):
            make()
    (tmp_path / "file").write_text("")
    model = fresh()
    before = states(model)
    for callback, error, message in (
        (SampleImages(steps=51), ValueError, "steps=51"),
        (SampleImages(guidance_scale=3.0), ValueError, "guidance_scale=3.0 needs labels"),
        (SampleImages(tmp_path / "file" / "below"), OSError, "Choose another folder"),
        (Checkpoint(tmp_path / "file" / "below"), OSError, "Choose another folder"),
    ):
        with pytest.raises(error, match=message):
            fit(model, callbacks=[callback])
    assert_same_states(before, states(model))


@pytest.mark.once
def test_pictures_of_other_channels_are_refused_before_the_first_step(tmp_path):
    images = IMAGES.repeat(4, -1)
    for callback in (
        SampleImages(tmp_path),
        EvaluateSamples(lambda x: x.mean((1, 2)), images, directory=tmp_path),
    ):
        model = make_model(network=tiny_network(channels=4))
        before = states(model)
        with pytest.raises(ValueError, match=r"1 or 3 channels, but samples are \(8, 8, 4\)"):
            fit(model, images, callbacks=[callback])
        assert_same_states(before, states(model))


def test_throughput_is_printed_once(fresh, capsys):
    def lines(images, seconds=1000, **kwargs):
        model, throughput = fresh(), Throughput(len(images), epochs=3, seconds=seconds)
        model.fit(images, batch_size=2, epochs=2, verbose=0, callbacks=[throughput], **kwargs)
        return [line for line in capsys.readouterr().out.splitlines() if line]

    assert not lines(IMAGES[:6])  # three steps are too few to measure
    for options in ({"seconds": 0}, {"validation_data": IMAGES[:4]}):
        (line,) = lines(IMAGES.repeat(2, 0), **options)
        assert "images/s" in line and "to go for 3 epochs" in line
