"""The log of a training as a CSV file."""

from __future__ import annotations

import csv

import keras

from keras_ddpm.described import Described
from keras_ddpm.devices import is_chief
from keras_ddpm.files import atomic_write
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_path


class CSVLog(Described, keras.callbacks.Callback):
    """Writes the logs of each epoch as a row of a CSV file.

    What was not measured in an epoch, such as samples that are drawn every fifth one, stays empty
    in its row; `keras.callbacks.CSVLogger` has only the columns of the first epoch. A resumed run
    goes on with the file, and replaces the rows of epochs that it repeats. Place it after the
    callbacks that add to the logs. Of several processes only the first writes.

    Args:
        path: the file, in a folder that exists.

    ```python
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, epochs=2, callbacks=[SampleImages(every=2), CSVLog("log.csv")])
    ```
    """

    def __init__(self, path: PathLike):
        super().__init__()
        self.path = check_path("path", path)

    def on_train_begin(self, logs=None):
        self.rows = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                self.rows = list(csv.DictReader(file))

    def on_epoch_end(self, epoch, logs=None):
        before = [row for row in self.rows if int(row["epoch"]) < epoch]
        self.rows = [*before, {"epoch": epoch, **(logs or {})}]
        if is_chief():
            columns = dict.fromkeys(name for row in self.rows for name in row)
            with atomic_write(self.path) as partial, open(partial, "w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)
