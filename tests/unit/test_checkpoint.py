"""Checkpoints: which are kept, which one a training goes on from, and who may write them."""

import errno
import os

import keras
import numpy as np
import pytest
from tools import assert_same_states, fit, make_model, resetting, run_python, states

from keras_ddpm import load_diffusion_model
from keras_ddpm.callbacks.checkpoint import Checkpoint, latest_checkpoint
from keras_ddpm.files import atomic_write, lock_folder

IN_ANOTHER_PROCESS = """
import sys
from filelock import FileLock, Timeout

try:  # what `lock_folder` does, without the imports of the package
    FileLock(sys.argv[1] + "/.lock", timeout=0).acquire()
except Timeout:
    print("refused")
else:
    print("locked")
"""


@pytest.fixture(scope="module")
def fresh():
    return resetting(make_model(dropout=0.2))


def names_in(folder):
    return sorted(path.name for path in folder.glob("*.keras"))


def test_the_latest_ones_are_kept_and_found(fresh, tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / ".partial-epoch_0009.keras").write_text("killed while writing")
    (tmp_path / "best.keras").write_text("of somebody else")
    (tmp_path / "epoch_0099.keras").mkdir()
    assert latest_checkpoint(tmp_path) is None
    model = fresh()
    fit(model, epochs=7, callbacks=[Checkpoint(tmp_path, every=2, keep=2)])
    assert {*names_in(tmp_path)} == {
        "best.keras",
        "epoch_0006.keras",
        "epoch_0007.keras",
        "epoch_0099.keras",
    }
    assert not list(tmp_path.glob(".partial-*"))
    path, epochs_done = latest_checkpoint(tmp_path)
    assert (path.name, epochs_done) == ("epoch_0007.keras", 7)
    assert_same_states(states(load_diffusion_model(path)), states(model))
    path.rename(tmp_path / "epoch_10000.keras")
    assert latest_checkpoint(tmp_path)[1] == 10000


def test_checkpoints_of_another_run_are_set_aside(fresh, tmp_path):
    fit(fresh(), epochs=4, callbacks=[Checkpoint(tmp_path)])
    for folder in ("older", "older_2"):
        with pytest.warns(UserWarning, match=f"moved 2 checkpoints of another run to .*{folder}"):
            fit(fresh(), epochs=2, callbacks=[Checkpoint(tmp_path)])
        assert names_in(tmp_path) == ["epoch_0001.keras", "epoch_0002.keras"]
    assert names_in(tmp_path / "older") == ["epoch_0003.keras", "epoch_0004.keras"]
    # One that goes on keeps what it goes on from.
    fit(fresh(), epochs=3, initial_epoch=2, callbacks=[Checkpoint(tmp_path, keep=3)])
    assert names_in(tmp_path) == [f"epoch_000{n}.keras" for n in (1, 2, 3)]


@pytest.mark.parametrize("first", ["stop", "checkpoint"])
def test_a_training_that_ends_early_has_a_last_checkpoint(fresh, tmp_path, first):
    stop = keras.callbacks.EarlyStopping("loss", min_delta=100, patience=1)
    callbacks = [stop, Checkpoint(tmp_path, every=5)]
    epochs = len(fit(fresh(), epochs=9, callbacks=callbacks[:: 1 if first == "stop" else -1]))
    assert epochs < 5 and names_in(tmp_path) == [f"epoch_000{epochs}.keras"]


@pytest.mark.once
def test_a_damaged_one_is_passed_over(fresh, tmp_path):
    model = fresh()
    fit(model, epochs=3, callbacks=[Checkpoint(tmp_path, keep=3)])
    whole = (tmp_path / "epoch_0003.keras").read_bytes()
    half = len(whole) // 2
    for content in (whole[:half], whole[:half] + b"spoiled" + whole[half + 7 :], b""):
        (tmp_path / "epoch_0003.keras").write_bytes(content)
        with pytest.warns(UserWarning, match="epoch_0003.* is damaged: .* from .*epoch_0002"):
            assert latest_checkpoint(tmp_path)[1] == 2
    for name in names_in(tmp_path):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match="epoch_0003.*epoch_0001.* is damaged. Delete it"):
        latest_checkpoint(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The last step of an epoch can spoil them with a finite loss and finite gradients."""

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return keras.ops.where(step < 3, 1e-3, float("inf"))

        def get_config(self):
            return {}

    model = make_model(optimizer=keras.optimizers.Adam(Rate()))
    with pytest.raises(FloatingPointError, match=r"^the weight .* \(epoch 2\): .*checkpoint"):
        fit(model, epochs=3, callbacks=[Checkpoint(tmp_path)])
    assert names_in(tmp_path) == ["epoch_0001.keras"]
    with keras.saving.custom_object_scope({"Rate": Rate}):
        saved = load_diffusion_model(tmp_path / "epoch_0001.keras")
    assert all(np.isfinite(weight).all() for weight in saved.get_weights())


@pytest.mark.once
def test_a_folder_has_one_training_at_a_time(fresh, tmp_path):
    def other():
        return run_python("-c", IN_ANOTHER_PROCESS, tmp_path)

    class Ask(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert "refused" in other()

    fit(fresh(), callbacks=[Checkpoint(tmp_path), Ask()])
    assert "locked" in other()
    lock_folder(tmp_path)
    fit(fresh(), callbacks=[Checkpoint(tmp_path)])  # this process may


@pytest.mark.once
def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*flower.png'") as caught:
        with atomic_write(tmp_path / "flower.png") as partial:
            partial.write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nowhere/flower.png"):
        with atomic_write(tmp_path / "nowhere" / "flower.png") as partial:
            partial.write_bytes(b"some")
