"""Callbacks: what they write and log, and that training does not notice them."""

import csv
import math
import sys
import types

import keras
import numpy as np
import pytest
from conftest import assert_same_states, states, tiny_network
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.callbacks import Checkpoint, SampleImages, Throughput, latest_checkpoint
from keras_ddpm.checkpoints import load_diffusion_model
from keras_ddpm.plotting import image_grid


def tiny_model(channels=1, num_classes=None):
    network = tiny_network(size=8, channels=channels, num_classes=num_classes, dropout=0.2)
    diffusion = GaussianDiffusion(8, beta_start=0.05, beta_end=0.8)
    model = DiffusionModel(network, diffusion, seed=0)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    return model


def tiny_images(channels=1, count=8):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), dtype="uint8")


def fit(model, callbacks, epochs=2, **kwargs):
    channels = model.sample_shape[-1]
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": callbacks}
    return model.fit(tiny_images(channels), epochs=epochs, **options, **kwargs)


def test_samples_do_not_disturb_training(tmp_path):
    results = []
    for callbacks in ([], [SampleImages(tmp_path, num_images=2, sampler="ddpm", steps=3)]):
        keras.utils.set_random_seed(0)
        model = tiny_model()
        fit(model, callbacks)
        results.append(states(model))
    assert_same_states(*results)


def test_samples_are_written_and_logged(tmp_path):
    model = tiny_model(channels=3)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    folder = tmp_path / "new" / "samples"
    samples = SampleImages(folder, every=2, num_images=4, steps=2, scale=3)
    history = fit(model, [samples, log], epochs=4).history
    assert sorted(p.name for p in folder.iterdir()) == ["epoch_0002.png", "epoch_0004.png"]
    with Image.open(folder / "epoch_0002.png") as picture:
        assert picture.size == (3 * (2 * 8 + 3 * 2),) * 2 and picture.mode == "RGB"

    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = model.generate(4, sampler="ddim", steps=2, seed=0).mean((0, 1, 2))
    for i, name in enumerate(("red", "green", "blue")):
        means = [float(row[f"sample_mean_{name}"]) for row in rows]
        assert [math.isnan(mean) for mean in means] == [True, False, True, False]
        np.testing.assert_allclose(means[-1], expected[i], atol=1e-6)
        data_mean = float(rows[-1][f"data_mean_{name}"])
        np.testing.assert_allclose(data_mean, model.data_mean[i], atol=1e-6)
        assert history[f"sample_mean_{name}"][-1] == means[-1]


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_ddpm.callbacks.is_chief", lambda: False)
    callbacks = [SampleImages(tmp_path, num_images=2, steps=2), Checkpoint(tmp_path)]
    history = fit(tiny_model(), callbacks).history
    assert np.isfinite(history["sample_mean_grey"]).all()  # drawing takes all of them
    assert not list(tmp_path.iterdir())


def test_samples_start_from_the_same_noise(tmp_path):
    """With weights that stand still, one epoch's picture is the next one's."""
    model = tiny_model()
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    fit(model, [SampleImages(tmp_path, num_images=2, steps=2)])
    first, second = ((tmp_path / f"epoch_000{i}.png").read_bytes() for i in (1, 2))
    assert first == second


def test_samples_go_through_the_classes():
    model = tiny_model(num_classes=3)
    samples = SampleImages(num_images=4, steps=2, show=False)
    samples.set_model(model)
    samples.on_train_begin()
    np.testing.assert_array_equal(samples.drawn_labels, [0, 1, 2, 0])
    logs = {}
    samples.on_epoch_end(0, logs)
    expected = model.generate(4, labels=[0, 1, 2, 0], steps=2, seed=0).mean()
    np.testing.assert_allclose(logs["sample_mean_grey"], expected, atol=1e-6)


def test_samples_are_guided(tmp_path):
    model = tiny_model(num_classes=3)
    options = {"steps": 3, "guidance_scale": 3.0, "spacing": "linspace", "sampler": "ddpm"}
    samples = SampleImages(tmp_path, num_images=3, **options)
    labels = np.arange(3, dtype="int32")
    model.fit(tiny_images(count=3), labels, verbose=0, shuffle=False, callbacks=[samples])
    expected = image_grid(model.generate(labels=labels, seed=0, **options))
    with Image.open(tmp_path / "epoch_0001.png") as picture:
        found = np.asarray(picture, "int32")
    assert np.abs(found - expected[..., 0]).max() <= 1
    with pytest.raises(ValueError, match="guidance_scale=3.0 needs labels"):
        fit(tiny_model(), [SampleImages(guidance_scale=3.0)])


def test_samples_are_drawn_in_batches(monkeypatch):
    sizes = []
    generate = DiffusionModel.generate

    def watched(self, num_images, batch_size=None, **options):
        sizes.append((num_images, batch_size))
        return generate(self, num_images, batch_size=batch_size, **options)

    monkeypatch.setattr(DiffusionModel, "generate", watched)
    fit(tiny_model(), [SampleImages(num_images=5, steps=1, batch_size=2)], epochs=1)
    assert sizes == [(5, 2)]


def test_samples_are_shown_in_a_notebook_only(monkeypatch):
    shown = []
    notebook = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    terminal = types.SimpleNamespace(get_ipython=lambda: object())
    display = types.SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for module, count in ((terminal, 0), (notebook, 1)):
        monkeypatch.setitem(sys.modules, "IPython", module)
        samples = SampleImages(num_images=2, steps=2)
        samples.set_model(tiny_model())
        samples.on_train_begin()
        samples.on_epoch_end(0)
        assert len(shown) == count
    assert isinstance(shown[0], Image.Image)


def test_wrong_arguments_are_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        SampleImages(sampler="dimm")
    with pytest.raises(ValueError, match="every"):
        SampleImages(every=0)
    with pytest.raises(ValueError, match="keep"):
        Checkpoint(tmp_path, keep=0)
    (tmp_path / "file").write_text("")
    model = tiny_model()
    before = states(model)
    for callback, error in (
        (SampleImages(steps=9), ValueError),
        (SampleImages(tmp_path / "file" / "below"), OSError),
        (Checkpoint(tmp_path / "file" / "below"), OSError),
    ):
        with pytest.raises(error, match="steps=9|Choose another folder"):
            fit(model, [callback])
    assert_same_states(before, states(model))


def test_checkpoints_are_kept_and_found(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / ".partial-epoch_0009.keras").write_text("killed while writing")
    (tmp_path / "best.keras").write_text("someone else's")
    assert latest_checkpoint(tmp_path) is None

    model = tiny_model()
    fit(model, [Checkpoint(tmp_path, every=2, keep=2)], epochs=7)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best.keras", "epoch_0006.keras", "epoch_0007.keras"]
    path, epochs_done = latest_checkpoint(tmp_path)
    assert (path.name, epochs_done) == ("epoch_0007.keras", 7)
    assert_same_states(states(load_diffusion_model(path)), states(model))


def test_latest_checkpoint_counts_beyond_four_digits(tmp_path):
    for number in (9999, 10000):
        (tmp_path / f"epoch_{number:04d}.keras").write_text("")
    assert latest_checkpoint(tmp_path)[1] == 10000


def test_throughput_says_early_and_after_an_epoch(capsys):
    fit(tiny_model(), [Throughput(8, epochs=3, steps=1)], epochs=1)  # 2 steps: too few to measure
    assert "images/s" not in capsys.readouterr().out
    model = tiny_model()
    images = tiny_images(count=32)
    model.fit(
        images,
        batch_size=4,
        epochs=2,
        verbose=0,
        validation_data=images[:4],
        callbacks=[Throughput(32, epochs=2, steps=2)],
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split(":")[0] for line in lines] == ["Measured", "After one epoch"]
    assert all("images/s" in line and "to go" in line for line in lines)


@pytest.mark.parametrize("content", ["missing", "text", "truncated", "zip", "other", "damaged"])
def test_files_that_are_no_diffusion_model(tmp_path, content):
    path = tmp_path / "a.keras"
    expected = {
        "missing": "there is no file",
        "text": "truncated, or no .keras file",
        "truncated": "truncated, or no .keras file",
        "zip": "not one that Keras wrote",
        "other": "holds a Sequential, not a DiffusionModel",
        "damaged": "checksum",
    }[content]
    if content == "text":
        path.write_text("weights")
    elif content == "zip":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "")
    elif content == "other":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    elif content != "missing":
        tiny_model().save(path)
        data = bytearray(path.read_bytes())
        if content == "truncated":
            data = data[: len(data) // 2]
        else:
            data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        load_diffusion_model(path)
