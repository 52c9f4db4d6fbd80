"""What TensorBoard would show: event files, read back with its own reader."""

import io
import json
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image
from test_callbacks import fit, tiny_model
from test_examples import train

from keras_ddpm.callbacks import SampleImages
from keras_ddpm.tensorboard import TensorBoard

pytest.importorskip("tensorboard", reason='needs pip install -e ".[tensorboard]"')
pytestmark = pytest.mark.needs("tensorboard")
# TensorBoard's own way to read files without TensorFlow, where it is installed.
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")


def read(folder):
    """All scalars and images as dicts from name to `{step: value}`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()

    def by_step(found):
        assert len({event.step for event in found}) == len(found)
        return {event.step: event for event in found}

    tags = events.Tags()
    scalars = {tag: by_step(events.Scalars(tag)) for tag in tags["scalars"]}
    images = {tag: by_step(events.Images(tag)) for tag in tags["images"]}
    return (
        {tag: {step: s.value for step, s in found.items()} for tag, found in scalars.items()},
        {tag: {step: picture(i) for step, i in found.items()} for tag, found in images.items()},
    )


def picture(event):
    return Image.open(io.BytesIO(event.encoded_image_string))


def test_scalars_and_grids(tmp_path):
    samples = SampleImages(tmp_path / "samples", every=2, num_images=4, steps=2)
    model = tiny_model(channels=3)
    fitted = fit(
        model, [samples, TensorBoard(tmp_path / "a", samples)], epochs=3, validation_split=0.5
    )
    log = fitted.history
    scalars, images = read(tmp_path / "a" / "train")
    assert scalars.keys() == {"learning_rate", *(name for name in log if "val_" not in name)}
    np.testing.assert_allclose(list(scalars["loss"].values()), log["loss"], rtol=1e-6)
    assert list(scalars["loss"]) == [1, 2, 3]
    np.testing.assert_allclose(list(scalars["learning_rate"].values()), 1e-3)
    assert list(scalars["sample_mean_red"]) == [2]  # other epochs have no samples
    with Image.open(tmp_path / "samples" / "epoch_0002.png") as expected:
        np.testing.assert_array_equal(images["samples"][2], expected)
    assert images.keys() == {"samples"} and images["samples"].keys() == {2}

    scalars, images = read(tmp_path / "a" / "validation")
    assert scalars.keys() == {"loss"} and not images
    np.testing.assert_allclose(list(scalars["loss"].values()), log["val_loss"], rtol=1e-6)


def test_grey_grids_without_a_folder_or_validation(tmp_path):
    samples = SampleImages(num_images=1, steps=1)
    fit(tiny_model(), [samples, TensorBoard(tmp_path, samples)], epochs=1)
    scalars, images = read(tmp_path / "train")
    assert images["samples"][1].mode == "L" and images["samples"][1].size == (12, 12)
    assert not read(tmp_path / "validation")[0]


def test_an_epoch_that_is_trained_again_replaces_what_it_wrote(tmp_path):
    model = tiny_model()
    first = fit(model, [TensorBoard(tmp_path)], epochs=3).history["loss"]
    again = fit(model, [TensorBoard(tmp_path)], epochs=4, initial_epoch=2).history["loss"]
    assert len(again) == 2 and again[0] != first[2]
    scalars, _ = read(tmp_path / "train")
    assert list(scalars["loss"]) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(scalars["loss"].values()), first[:2] + again, rtol=1e-6)


def test_grids_come_before(tmp_path):
    samples = SampleImages(num_images=1, steps=1)
    with pytest.raises(ValueError, match="SampleImages must come before TensorBoard"):
        fit(tiny_model(), [TensorBoard(tmp_path, samples), samples])


def test_another_process_than_the_first_writes_nothing(tmp_path, monkeypatch):
    for module in ("callbacks", "tensorboard"):
        monkeypatch.setattr(f"keras_ddpm.{module}.is_chief", lambda: False)
    samples = SampleImages(tmp_path / "samples", num_images=2, steps=2)
    fit(tiny_model(), [samples, TensorBoard(tmp_path / "a", samples)])
    assert samples.grid is not None  # it takes part in the drawing
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        fit(tiny_model(), [TensorBoard(tmp_path / "file" / "below")])


@pytest.mark.once
def test_the_package_is_asked_for_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install -e ".\[tensorboard\]"'):
        TensorBoard(tmp_path)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it is there already")
def test_tensorflow_is_not_loaded(tmp_path):
    """Beside another backend it costs seconds, and beside PyTorch on a GPU it may abort."""
    script = """
import sys
from keras_ddpm.tensorboard import EventWriter
import numpy as np
writer = EventWriter("a", 1)
writer.write_scalars({"loss": 1.0}, 1)
writer.write_image("samples", np.zeros((4, 4, 3), "uint8"), 1)
writer.close()
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert read(tmp_path / "a")[0] == {"loss": {1: 1.0}}


@pytest.mark.once
def test_a_run_by_its_configuration(tmp_path, monkeypatch):
    """`examples/flowers.py` writes them, goes on in them, and takes further callbacks by name."""
    monkeypatch.chdir(tmp_path)
    other = {"class_path": "keras.callbacks.CSVLogger", "init_args": {"filename": "other.csv"}}
    options = {"logging__callbacks": json.dumps([other]), "data__validation_split": "validation"}
    for epochs in (1, 2):  # the second goes on with the first
        train(monkeypatch, "run", logging__tensorboard="true", training__epochs=epochs, **options)
    log = np.genfromtxt("run/log.csv", delimiter=",", names=True)
    scalars, images = read("run/tensorboard/train")
    np.testing.assert_allclose(list(scalars["loss"].values()), log["loss"], rtol=1e-6)
    assert list(scalars["sample_mean_red"]) == list(images["samples"]) == [1, 2]
    with Image.open("run/samples/epoch_0002.png") as expected:
        np.testing.assert_array_equal(images["samples"][2], expected)
    scalars, _ = read("run/tensorboard/validation")
    np.testing.assert_allclose(list(scalars["loss"].values()), log["val_loss"], rtol=1e-6)
    written = np.genfromtxt("other.csv", delimiter=",", names=True)
    assert written["loss"] == log["loss"][1]  # it starts anew, unless told to append
