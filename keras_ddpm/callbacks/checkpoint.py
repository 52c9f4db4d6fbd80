"""Checkpoints: written after epochs, and found again."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import keras

from keras_ddpm.described import Described
from keras_ddpm.devices import is_chief
from keras_ddpm.files import PARTIAL_PREFIX, is_damaged, lock_folder, make_writable
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_int, check_path

NAME = "epoch_{:04d}.keras"
NAME_PATTERN = re.compile(r"epoch_(\d{4,})\.keras")


class Checkpoint(Described, keras.callbacks.Callback):
    """Saves the whole model after epochs, so that training can go on after a kill.

    `epoch_0012.keras` is the state after 12 epochs: weights, averaged weights, optimizer and
    random states. Put this callback last, so that the other callbacks have written what belongs to
    an epoch before its checkpoint. Of several processes only the first writes. Another training
    cannot use the folder at the same time.

    Checkpoints of more epochs than a training begins with are those of another run: they are
    moved to the sub-folder `older`, or `older_2` and so on, with a warning.

    Args:
        directory: where to write.
        every: int, epochs from one checkpoint to the next. The last epoch has one in any case, also
            when `EarlyStopping` ends the training.
        keep: int, how many checkpoints to keep; older ones are deleted.

    ```python
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, epochs=2, callbacks=[Checkpoint("checkpoints")])

    path, epochs_done = latest_checkpoint("checkpoints")
    model = load_diffusion_model(path)
    model.fit(images, labels, epochs=3, initial_epoch=epochs_done)
    ```
    """

    def __init__(self, directory: PathLike, every: int = 1, keep: int = 2):
        super().__init__()
        self.directory = check_path("directory", directory)
        self.every, self.keep = check_int("every", every), check_int("keep", keep)

    def on_train_begin(self, logs=None):
        self.epochs_done, self.is_saved = None, False
        if is_chief():
            self.lock = lock_folder(make_writable(self.directory))
            for partial in self.directory.glob(f"{PARTIAL_PREFIX}*.keras"):
                partial.unlink()  # a run was killed while it wrote this

    def on_epoch_begin(self, epoch, logs=None):
        if self.epochs_done is None and is_chief():
            self._set_aside([p for p, done in list_checkpoints(self.directory) if done > epoch])
        self.epochs_done = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.epochs_done, self.is_saved = epoch + 1, False
        is_last = self.epochs_done == self.params["epochs"] or self.model.stop_training
        if is_last or self.epochs_done % self.every == 0:
            self._save()

    def on_train_end(self, logs=None):
        if self.epochs_done and not self.is_saved:  # a callback after this one ended the training
            self._save()
        if is_chief():
            self.lock.release(force=True)

    def _save(self):
        self.is_saved = True
        if not is_chief():
            return
        # `self.model`, not a reference of our own: on JAX this brings the variables up to date.
        self.model.save(self.directory / NAME.format(self.epochs_done))
        for path, _ in list_checkpoints(self.directory)[: -self.keep]:
            path.unlink()

    def _set_aside(self, paths):
        if not paths:
            return
        folder, count = self.directory / "older", 1
        while folder.exists():
            count += 1
            folder = self.directory / f"older_{count}"
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)
        warnings.warn(f"moved {len(paths)} checkpoints of another run to {folder}.", stacklevel=2)


def list_checkpoints(directory):
    """Pairs `(path, epochs_done)` of the checkpoint files in a folder, oldest first."""
    paths = (path for path in Path(directory).glob("*.keras") if path.is_file())
    found = [(path, NAME_PATTERN.fullmatch(path.name)) for path in paths]
    return sorted(((p, int(m[1])) for p, m in found if m), key=lambda checkpoint: checkpoint[1])


def latest_checkpoint(directory: PathLike) -> tuple[Path, int] | None:
    """`(path, epochs_done)` of the checkpoint to go on from, or None if there is none.

    A damaged one is passed over with a warning; a ValueError if all are damaged.
    """
    damaged: list[str] = []
    directory = check_path("directory", directory)
    for path, epochs_done in reversed(list_checkpoints(directory)):
        if not is_damaged(path):
            if damaged:
                names = ", ".join(damaged)
                warnings.warn(f"{names} is damaged: going on from {path}.", stacklevel=2)
            return path, epochs_done
        damaged.append(str(path))
    if damaged:
        raise ValueError(f"{', '.join(damaged)} is damaged. Delete it to begin anew.")
    return None
