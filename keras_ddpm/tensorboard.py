"""Scalars and sample grids for TensorBoard, on every backend and without TensorFlow."""

import io
import math
import time

import keras
from keras import ops

from keras_ddpm.devices import is_chief
from keras_ddpm.files import make_writable
from keras_ddpm.plotting import to_pillow


class TensorBoard(keras.callbacks.Callback):
    """Writes what an epoch logged, its learning rate, and the grids of `SampleImages`.

    Needs the package tensorboard, which also shows it: `tensorboard --logdir runs`. Unlike
    `keras.callbacks.TensorBoard` it does not need TensorFlow, and it knows images.

    Metrics of the training are in the folder `train`, those of the validation in `validation`, and
    both under one name, so that TensorBoard draws them into one plot. Steps are epochs done, as in
    the names of checkpoints and grids. Values that are not finite, such as the channel means of
    epochs without samples, are left out.

    A run that goes on after a kill goes on in the same plots: what an epoch wrote before is hidden
    once it is trained again. Of several processes only the first writes.

    Args:
        directory: where to write; the plots of folders side by side are compared.
        samples: optional `SampleImages`, placed before this callback, whose grids to show.

    Raises:
        ImportError: if the package is missing.
        OSError: when training begins, if `directory` cannot be written to.
        ValueError: when the first grid is due, if `samples` comes after this callback.

    Example:

    ```python
    samples = SampleImages("runs/a/samples", every=5)
    callbacks = [samples, TensorBoard("runs/a/tensorboard", samples)]
    model.fit(images, epochs=100, callbacks=callbacks)
    ```
    """

    def __init__(self, directory, samples=None):
        super().__init__()
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'TensorBoard needs the package tensorboard: pip install -e ".[tensorboard]"'
            ) from error
        self.directory, self.samples = directory, samples

    def on_train_begin(self, logs=None):
        self.directory = make_writable(self.directory)
        self.writers = {}

    def on_epoch_begin(self, epoch, logs=None):
        if not self.writers and is_chief():  # of several processes, one writes
            names = ("train", "validation")
            self.writers = {name: EventWriter(self.directory / name, epoch + 1) for name in names}

    def on_epoch_end(self, epoch, logs=None):
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        values = {"train": {"learning_rate": rate}, "validation": {}}
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            values[part][name.removeprefix("val_")] = value
        for part, writer in self.writers.items():
            if values[part]:
                writer.write_scalars(values[part], epoch + 1)
        if self.writers and self.samples is not None and self.samples.is_due(epoch):
            if self.samples.grid is None:
                raise ValueError("SampleImages must come before TensorBoard in callbacks.")
            self.writers["train"].write_image("samples", self.samples.grid, epoch + 1)

    def on_train_end(self, logs=None):
        for writer in self.writers.values():
            writer.close()


class EventWriter:
    """One event file, the format of TensorBoard. What is written is on the disk at once.

    Args:
        directory: where to write; it is created.
        first_step: int; what earlier files in the folder hold of this step and of later ones is no
            longer shown.
    """

    def __init__(self, directory, first_step):
        # torch.utils.tensorboard builds on these parts, too. Whatever else in the package opens
        # files would load TensorFlow where it is installed, beside another backend.
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Files are read in the order of their names.
        path = make_writable(directory) / f"events.out.tfevents.{time.time_ns()}"
        self._records = RecordWriter(open(path, "xb"))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write_scalars(self, values, step):
        """Writes a dict of numbers; those that are not finite are left out."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in finite.items()]
        self._write(step=step, summary=Summary(value=values))

    def write_image(self, name, image, step):
        """Writes one image, uint8 `(height, width, channels)`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, channels = image.shape
        png = io.BytesIO()
        to_pillow(image).save(png, "PNG")
        content = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
        )
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=content)]))

    def close(self):
        self._records.close()

    def _write(self, **content):
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._records.flush()
