"""How long a training will take."""

import time
from datetime import timedelta

import keras
from keras import ops

from keras_ddpm.described import Described
from keras_ddpm.validation import check_int, check_number


class Throughput(Described, keras.callbacks.Callback):
    """Prints once how fast training is, and how long the rest of the run will take.

    It measures training steps only, from the fourth on, because the first ones compile. It prints
    after `seconds` of them, or when the first epoch ends.

    Args:
        images_per_epoch, epochs: ints; `epochs` as for `fit`.
        seconds: float, how long to measure.

    ```python
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, epochs=2, callbacks=[Throughput(len(images), epochs=2)])
    ```
    """

    def __init__(self, images_per_epoch: int, epochs: int, seconds: float = 10.0):
        super().__init__()
        self.images_per_epoch = check_int("images_per_epoch", images_per_epoch)
        self.epochs = check_int("epochs", epochs)
        self.seconds = check_number("seconds", seconds, "[0, inf)")

    def on_train_begin(self, logs=None):
        self.begin, self.is_done = None, False

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.steps = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps = batch + 1
        if self.is_done or self.steps < 3:
            return
        if self.begin is None:
            self.begin = self.steps, self._now()
        elif time.perf_counter() - self.begin[1] >= self.seconds:
            self._announce()

    def on_test_begin(self, logs=None):
        self._announce()  # before validation, which is no training step

    def on_epoch_end(self, epoch, logs=None):
        self._announce()

    def _announce(self):
        if self.is_done or self.begin is None or self.steps <= self.begin[0]:
            return
        self.is_done = True
        step_seconds = (self._now() - self.begin[1]) / (self.steps - self.begin[0])
        steps_per_epoch = self.params["steps"] or self.steps  # None: of unknown length
        rate = self.images_per_epoch / steps_per_epoch / step_seconds
        rest = ((self.epochs - self.epoch) * steps_per_epoch - self.steps) * step_seconds
        text = f"{rate:.3g} images/s, {timedelta(seconds=round(rest))} to go"
        print(f"\nMeasured: {text} for {self.epochs} epochs (training steps only).", flush=True)

    def _now(self):
        # Reading a variable waits until the device has done its steps.
        ops.convert_to_numpy(self.model.optimizer.iterations)
        return time.perf_counter()
