"""Checkpoints: written after epochs, and found again."""

import re
from pathlib import Path

import keras

from keras_ddpm.devices import is_chief
from keras_ddpm.files import PARTIAL_PREFIX, atomic_write, make_writable
from keras_ddpm.validation import check_int

NAME = "epoch_{:04d}.keras"
NAME_PATTERN = re.compile(r"epoch_(\d{4,})\.keras")


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model after epochs, so that training can go on after a kill.

    `epoch_0012.keras` is the state after 12 epochs: weights, averaged weights, optimizer and
    random states. Put this callback last, so that the other callbacks have written what belongs to
    an epoch before its checkpoint. Of several processes only the first writes.

    Args:
        directory: where to write.
        every: int, epochs from one checkpoint to the next. The last epoch has one in any case.
        keep: int, how many checkpoints to keep; older ones are deleted.

    ```python
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, epochs=2, callbacks=[Checkpoint("checkpoints")])

    path, epochs_done = latest_checkpoint("checkpoints")
    model = load_diffusion_model(path)
    model.fit(images, labels, epochs=3, initial_epoch=epochs_done)
    ```
    """

    def __init__(self, directory, every=1, keep=2):
        super().__init__()
        self.directory = Path(directory)
        self.every, self.keep = check_int("every", every), check_int("keep", keep)

    def on_train_begin(self, logs=None):
        if is_chief():
            make_writable(self.directory)
            for partial in self.directory.glob(f"{PARTIAL_PREFIX}*"):
                partial.unlink()  # a run was killed while it wrote this

    def on_epoch_end(self, epoch, logs=None):
        epochs_done = epoch + 1
        due = epochs_done % self.every == 0 or epochs_done == self.params["epochs"]
        if not due or not is_chief():
            return
        with atomic_write(self.directory / NAME.format(epochs_done)) as partial:
            # `self.model`, not a reference of our own: on JAX this brings the variables up to date.
            self.model.save(partial)
        for path, _ in list_checkpoints(self.directory)[: -self.keep]:
            path.unlink()


def list_checkpoints(directory):
    """Pairs `(path, epochs_done)` of the complete checkpoints in a folder, oldest first."""
    paths = Path(directory).glob("*.keras")
    found = [(path, NAME_PATTERN.fullmatch(path.name)) for path in paths]
    return sorted(((p, int(m[1])) for p, m in found if m), key=lambda checkpoint: checkpoint[1])


def latest_checkpoint(directory):
    """`(path, epochs_done)` of the checkpoint to go on from, or None if there is none."""
    return (list_checkpoints(directory) or [None])[-1]
