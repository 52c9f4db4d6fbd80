"""What TensorBoard would show: event files, read back with its own reader."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from tools import BACKEND, FLOATS, make_model, run_python

from keras_ddpm import SampleImages
from keras_ddpm.callbacks.tensorboard import TensorBoard

pytestmark = pytest.mark.needs("tensorboard", "tensorboardX")


@pytest.fixture(scope="module")
def model():
    """One model, trained by all tests: its programs are compiled once."""
    return make_model()


def fit(model, callbacks, epochs=1, **kwargs):
    options = {"batch_size": 4, "validation_data": (FLOATS[:4],), "shuffle": False, "verbose": 0}
    return model.fit(FLOATS, epochs=epochs, callbacks=callbacks, **options, **kwargs).history


def read(folder):
    """Two dicts, from names to events: scalars and images."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    return (
        {tag: events.Scalars(tag) for tag in tags["scalars"]},
        {tag: events.Images(tag) for tag in tags["images"]},
    )


def assert_curve(events, expected):
    """One for each step from 1 on."""
    assert [event.step for event in events] == list(range(1, len(expected) + 1))
    np.testing.assert_allclose([event.value for event in events], expected, rtol=1e-6)


def test_scalars_and_grids(tmp_path, model):
    samples = SampleImages(tmp_path / "samples", every=2, num_images=4, steps=2, scale=1)
    log = fit(model, [samples, TensorBoard(tmp_path / "a", samples)], epochs=3)
    scalars, images = read(tmp_path / "a" / "train")
    assert scalars.keys() == {"learning_rate", *(name for name in log if "val_" not in name)}
    assert_curve(scalars["loss"], log["loss"])
    assert_curve(scalars["learning_rate"], [1e-2] * 3)
    [mean], [grid] = scalars["sample_mean_grey"], images["samples"]
    assert mean.step == grid.step == 2  # in other epochs there are no samples: NaN
    with Image.open(tmp_path / "samples" / "epoch_0002.png") as expected:
        found = Image.open(io.BytesIO(grid.encoded_image_string))
        np.testing.assert_array_equal(found.convert("L"), expected)

    scalars, images = read(tmp_path / "a" / "validation")
    assert scalars.keys() == {"loss"} and not images
    assert_curve(scalars["loss"], log["val_loss"])


def test_an_epoch_that_is_trained_again_replaces_what_it_wrote(tmp_path, model):
    first = fit(model, [TensorBoard(tmp_path)], epochs=2)["loss"]
    again = fit(model, [TensorBoard(tmp_path)], epochs=3, initial_epoch=1)["loss"]
    assert len(again) == 2 and again[0] != first[1]
    assert_curve(read(tmp_path / "train")[0]["loss"], first[:1] + again)


def test_another_process_than_the_first_writes_nothing(tmp_path, monkeypatch, model):
    monkeypatch.setattr("keras_ddpm.callbacks.tensorboard.is_chief", lambda: False)
    fit(model, [TensorBoard(tmp_path)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.once
def test_a_folder_or_a_package_that_is_not_there(tmp_path, monkeypatch, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        fit(model, [TensorBoard(tmp_path / "file" / "below")])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "keras-ddpm\[tensorboard\]"'):
        TensorBoard(tmp_path)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it is there already")
def test_tensorflow_is_not_imported(tmp_path):
    """Beside another backend it costs seconds, and beside PyTorch on a GPU it may abort."""
    script = """
import sys
from keras_ddpm.callbacks.tensorboard import TensorBoard
writer = TensorBoard("a").make_writer("a", purge_step=1)
writer.add_scalar("loss", 1.0, 1)
writer.close()
assert "tensorflow" not in sys.modules
"""
    run_python("-c", script, cwd=tmp_path)
    assert_curve(read(tmp_path / "a")[0]["loss"], [1.0])
