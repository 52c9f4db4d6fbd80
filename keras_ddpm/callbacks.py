"""What happens beside training: pictures of progress, checkpoints, and how long it will take."""

import sys
import time

import keras
import numpy as np
from keras import ops

from keras_ddpm.checkpoints import CHECKPOINT_NAME, latest_checkpoint, list_checkpoints
from keras_ddpm.devices import is_chief
from keras_ddpm.files import PARTIAL_PREFIX, make_writable, written_aside
from keras_ddpm.plotting import image_grid, save_image, to_pillow
from keras_ddpm.sampling_callback import SamplingCallback
from keras_ddpm.validation import check_positive_int

__all__ = ["Checkpoint", "SampleImages", "Throughput", "latest_checkpoint"]

CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}


class SampleImages(SamplingCallback):
    """Draws the same images again and again while the network learns.

    Every sampling starts from the same noise, so that one watches the same pictures improve. It
    changes nothing in the training: with and without it the weights are the same.

    It logs the mean of each channel, of the samples and of the training data, both in [-1, 1]:
    `sample_mean_red` beside `data_mean_red`, or `..._grey`. Samples that are tinted show here
    long before the loss tells. In epochs without samples their means are logged as NaN, so that
    `CSVLogger`, placed after this callback, finds the same columns in every epoch.

    Args:
        directory: where to write `epoch_0005.png`, the grid after 5 epochs; None writes nothing.
        every: int, epochs from one grid to the next.
        num_images: int, images in a grid.
        scale: int, how often each pixel of the grid is repeated in both directions.
        show: bool, whether to display the grid; `"auto"` does so in a Jupyter notebook.
        **sampling: labels, sampler, steps, spacing, eta, guidance_scale, seed and batch_size, see
            `SamplingCallback`.

    Attributes:
        grid: the latest grid, uint8 `(height, width, channels)`; None before the first.

    Raises:
        OSError: when training begins, if `directory` cannot be written to.
        ValueError: when training begins, if the model cannot be sampled like this.

    Example:

    ```python
    model.fit(images, epochs=100, callbacks=[SampleImages("runs/a/samples", every=5)])
    ```
    """

    grid = None

    def __init__(self, directory=None, every=1, num_images=16, scale=1, show="auto", **sampling):
        super().__init__(every, num_images, **sampling)
        self.directory = directory
        self.scale = check_positive_int("scale", scale)
        self.show = _in_notebook() if show == "auto" else show

    def on_train_begin(self, logs=None):
        if not self.model.is_image:
            shape = self.model.sample_shape
            raise ValueError(f"SampleImages draws images, not samples of {shape}.")
        super().on_train_begin(logs)
        if self.directory is not None:
            self.directory = make_writable(self.directory)
        channels = self.model.sample_shape[-1]
        self.channel_names = CHANNEL_NAMES.get(channels, range(channels))

    def on_epoch_end(self, epoch, logs=None):
        means = np.full(len(self.channel_names), np.nan)
        if self.is_due(epoch):
            images = self.draw()
            self.grid = image_grid(images)
            self._present(epoch)
            means = images.mean((0, 1, 2))
        data_means = ops.convert_to_numpy(self.model.data_mean)
        if logs is not None:
            for name, mean, data_mean in zip(self.channel_names, means, data_means, strict=True):
                logs[f"sample_mean_{name}"] = float(mean)
                logs[f"data_mean_{name}"] = float(data_mean)

    def _present(self, epoch):
        if not is_chief():
            return
        if self.directory is not None:
            save_image(self.directory / f"epoch_{epoch + 1:04d}.png", self.grid, self.scale)
        if self.show:
            from IPython.display import display

            display(to_pillow(self.grid, self.scale))


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model at the end of epochs, so that training can go on after a kill.

    `epoch_0012.keras` is the state after 12 epochs: weights, averaged weights, optimizer and
    random states. It is written aside and then renamed, so a file of this name is complete.

    Place it last in the list of callbacks: then what the others wrote of an epoch is there once
    the epoch's checkpoint is. Of several processes only the first writes.

    Args:
        directory: where to write.
        every: int, epochs from one checkpoint to the next. The last epoch has one in any case.
        keep: int, how many checkpoints to keep; older ones are deleted.

    Raises:
        OSError: when training begins, if `directory` cannot be written to.

    Example:

    ```python
    model.fit(dataset, epochs=100, callbacks=[Checkpoint("runs/a/checkpoints", every=10)])

    path, epochs_done = latest_checkpoint("runs/a/checkpoints")
    model = keras.saving.load_model(path)
    model.fit(dataset, epochs=200, initial_epoch=epochs_done, ...)
    ```
    """

    def __init__(self, directory, every=1, keep=2):
        super().__init__()
        self.directory = directory
        self.every = check_positive_int("every", every)
        self.keep = check_positive_int("keep", keep)

    def on_train_begin(self, logs=None):
        if not is_chief():
            return
        self.directory = make_writable(self.directory)
        for partial in self.directory.glob(f"{PARTIAL_PREFIX}*"):
            partial.unlink()  # a run was killed while it wrote this

    def on_epoch_end(self, epoch, logs=None):
        epochs_done = epoch + 1
        due = epochs_done % self.every == 0 or epochs_done == self.params["epochs"]
        if not due or not is_chief():
            return
        with written_aside(self.directory / CHECKPOINT_NAME.format(epochs_done)) as partial:
            # `self.model`, not a kept reference: on JAX this brings the variables up to date.
            self.model.save(partial)
        for path, _ in list_checkpoints(self.directory)[: -self.keep]:
            path.unlink()


class Throughput(keras.callbacks.Callback):
    """Says early how fast training is and how long the whole run will take.

    One line after the first seconds, and a better one after the first epoch. Both measure
    training steps only, from the fourth on: the first ones compile.

    Args:
        images_per_epoch: int.
        epochs: int, epochs of the whole run, as for `fit`.
        seconds: float, for how long to measure before the first line, at most.
        steps: int, for how many steps to measure before the first line, at most.

    Example:

    ```python
    model.fit(images, epochs=50, callbacks=[Throughput(len(images), epochs=50)])
    ```
    """

    skipped_steps = 3

    def __init__(self, images_per_epoch, epochs, seconds=10.0, steps=20):
        super().__init__()
        self.images_per_epoch = check_positive_int("images_per_epoch", images_per_epoch)
        self.epochs = check_positive_int("epochs", epochs)
        self.seconds, self.steps = seconds, steps

    def on_train_begin(self, logs=None):
        self.is_first_epoch, self.is_announced = True, False
        self.begin = None  # (step, time) at which measuring began

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not self.is_first_epoch:
            return
        self.last_step = batch + 1
        if self.begin is None:
            if self.last_step >= self.skipped_steps:
                self.begin = self.last_step, self._now()
            return
        steps, seconds = self.last_step - self.begin[0], time.perf_counter() - self.begin[1]
        if not self.is_announced and (steps >= self.steps or seconds >= self.seconds):
            self._announce("Measured")
            self.is_announced = True

    def on_test_begin(self, logs=None):
        self._end_first_epoch()  # before validation, which is no training step

    def on_epoch_end(self, epoch, logs=None):
        self._end_first_epoch()

    def _end_first_epoch(self):
        if self.is_first_epoch and self.begin and self.last_step > self.begin[0]:
            self._announce("After one epoch")
        self.is_first_epoch = False

    def _announce(self, when):
        steps_per_epoch = self.params["steps"]
        step_seconds = (self._now() - self.begin[1]) / (self.last_step - self.begin[0])
        rate = self.images_per_epoch / steps_per_epoch / step_seconds
        steps_to_go = (self.epochs - self.epoch) * steps_per_epoch - self.last_step
        print(
            f"\n{when}: {rate:.3g} images/s, {_duration(steps_to_go * step_seconds)} to go "
            f"for {self.epochs} epochs (training steps only).",
            flush=True,
        )

    def _now(self):
        # Reading a variable waits until the device has done the steps it was given.
        ops.convert_to_numpy(self.model.optimizer.iterations)
        return time.perf_counter()


def _duration(seconds):
    """`75` -> `"1 min 15 s"`, `7300` -> `"2 h 1 min"`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _in_notebook():
    """Whether a Jupyter kernel runs this code; a terminal's IPython cannot show images."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")
