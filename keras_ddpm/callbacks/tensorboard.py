"""Scalars and sample grids for TensorBoard, on every backend and without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddpm.callbacks.sampling import SampleImages
from keras_ddpm.described import Described
from keras_ddpm.devices import is_chief
from keras_ddpm.files import make_writable
from keras_ddpm.types import PathLike


class TensorBoard(Described, keras.callbacks.Callback):
    """Writes the logs of each epoch, the learning rate, and the grids of `SampleImages`.

    It needs the package tensorboardX. Metrics go to the folders `train` and `validation` under the
    same names, so that TensorBoard draws both into one plot. The step is the number of epochs done;
    a resumed run replaces the steps that it repeats. Of several processes only the first writes.

    Args:
        directory: where to write; `tensorboard --logdir` compares folders side by side.
        samples: optional `SampleImages`, placed before this callback.

    ```python
    samples = SampleImages("samples", steps=5)
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, callbacks=[samples, TensorBoard("tensorboard", samples)])
    ```
    """

    def __init__(self, directory: PathLike, samples: SampleImages | None = None):
        super().__init__()
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            message = 'TensorBoard needs tensorboardX: pip install "keras-ddpm[tensorboard]"'
            raise ImportError(message) from error
        self.make_writer = SummaryWriter
        self.directory, self.samples = Path(directory), samples
        self.writers: dict[str, Any] = {}

    def on_train_begin(self, logs=None):
        self.writers = {}
        make_writable(self.directory)

    def on_epoch_begin(self, epoch, logs=None):
        for part in ("train", "validation") if is_chief() and not self.writers else ():
            folder = make_writable(self.directory / part)
            # Files of one second have one name, up to this suffix.
            options = {"purge_step": epoch + 1, "filename_suffix": f".{epoch:04d}"}
            self.writers[part] = self.make_writer(str(folder), **options)

    def on_epoch_end(self, epoch, logs=None):
        if not self.writers:
            return
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for name, value in {"learning_rate": rate, **(logs or {})}.items():
            part = "validation" if name.startswith("val_") else "train"
            if np.isfinite(value):
                self.writers[part].add_scalar(name.removeprefix("val_"), value, epoch + 1)
        if self.samples is not None and self.samples.is_due(epoch):
            grid = self.samples.grid
            self.writers["train"].add_image("samples", grid, epoch + 1, dataformats="HWC")
        for writer in self.writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self.writers.values():
            writer.close()
