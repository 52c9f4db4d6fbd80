"""Callbacks that sample while a network learns."""

from __future__ import annotations

import sys
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_ddpm.described import Described
from keras_ddpm.devices import is_chief
from keras_ddpm.files import make_writable
from keras_ddpm.plotting import image_grid, save_image, to_pillow, visible_scale
from keras_ddpm.samplers import Sampler, get_sampler
from keras_ddpm.types import Labels, PathLike
from keras_ddpm.validation import check_bool, check_int, check_path

CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}


class SamplingCallback(Described, keras.callbacks.Callback):
    """Draws samples from the same noise every few epochs, without any influence on the training.

    Args:
        every: int, epochs from one sampling to the next.
        num_images: int, how many.
        labels: as for `DiffusionModel.generate`. None: a conditional network's classes in turn.
        condition: as for `DiffusionModel.generate`, of fixed examples.
        sampler, guidance_scale, batch_size, **options: as for `DiffusionModel.generate`.
        seed: int, for the noise.
    """

    def __init__(
        self,
        every: int = 1,
        num_images: int = 16,
        labels: Labels | None = None,
        guidance_scale: float = 1.0,
        sampler: str | Sampler = "ddim",
        seed: int = 0,
        batch_size: int = 64,
        condition: ArrayLike | None = None,
        **options: Any,
    ):
        super().__init__()
        self.every = check_int("every", every)
        self.num_images = check_int("num_images", num_images)
        self.batch_size = check_int("batch_size", batch_size)
        sampler, seed = get_sampler(sampler, **options), check_int("seed", seed, minimum=0)
        self.labels = labels
        self.sampling = {"guidance_scale": guidance_scale, "sampler": sampler, "seed": seed}
        self.sampling["condition"] = condition

    def on_train_begin(self, logs=None):
        """Finds errors before the first step instead of after the first epoch."""
        self.drawn_labels = self.labels
        if self.labels is None and self.model.num_classes is not None:
            self.drawn_labels = np.arange(self.num_images) % self.model.num_classes
        self.model.check_request(self.num_images, self.drawn_labels, **self.sampling)

    def is_due(self, epoch: int) -> bool:
        """Whether epoch number `epoch`, counting from 0, ends with a sampling."""
        return (epoch + 1) % self.every == 0

    def draw(self) -> np.ndarray:
        """The samples, float32 `(num_images, ...)`."""
        if self.model is None:
            raise RuntimeError("the callback has no model yet: pass it to `fit`.")
        request = {**self.sampling, "batch_size": self.batch_size}
        return self.model.generate(self.num_images, self.drawn_labels, **request)


class SampleImages(SamplingCallback):
    """Draws a grid of images every few epochs, each grid from the same noise.

    It logs the mean of each channel, of the samples and of the training data, both in [-1, 1]:
    `sample_mean_red` beside `data_mean_red`, or `..._grey`. They show a tint of the samples, which
    the loss does not. Epochs without samples have no such means; `CSVLog` leaves them empty.

    Args:
        directory: where to write `epoch_0005.png`, the grid after 5 epochs; None writes nothing.
        every: int, epochs from one grid to the next.
        num_images: int, images in a grid.
        scale: optional int, how often each pixel of the grid is repeated in both directions; None
            makes the grid at least 512 pixels wide.
        show: bool, whether to display the grid; `"auto"` does so in a Jupyter notebook.
        **sampling: see `SamplingCallback`.

    The attribute `grid` is the latest grid, uint8 `(height, width, channels)`, or None.

    ```python
    images, labels = draw_flowers(32, image_size=16)
    model.fit(images, labels, epochs=2, callbacks=[SampleImages("samples", every=2, steps=5)])
    ```
    """

    grid = None

    def __init__(
        self,
        directory: PathLike | None = None,
        every: int = 1,
        num_images: int = 16,
        scale: int | None = None,
        show: bool | Literal["auto"] = "auto",
        **sampling: Any,
    ):
        super().__init__(every, num_images, **sampling)
        self.directory = None if directory is None else check_path("directory", directory)
        self.scale = None if scale is None else check_int("scale", scale)
        self.show = _in_notebook() if show == "auto" else check_bool("show", show)

    def on_train_begin(self, logs=None):
        check_drawable(self.model)
        super().on_train_begin(logs)
        if self.directory is not None:
            make_writable(self.directory)

    def on_epoch_end(self, epoch, logs=None):
        if not self.is_due(epoch):
            return
        images = self.draw()
        self.grid = image_grid(images)
        scale = self.scale or visible_scale(self.grid)
        if self.directory is not None and is_chief():
            save_image(self.directory / f"epoch_{epoch + 1:04d}.png", self.grid, scale)
        if self.show and is_chief():
            from IPython.display import display

            display(to_pillow(self.grid, scale))
        data_means = ops.convert_to_numpy(self.model.data_mean)
        names = CHANNEL_NAMES[len(data_means)]
        for name, mean, data_mean in zip(names, images.mean((0, 1, 2)), data_means):
            if logs is not None:
                logs[f"sample_mean_{name}"] = float(mean)
                logs[f"data_mean_{name}"] = float(data_mean)


def check_drawable(model):
    """Refuses a model whose samples are no pictures, before they are drawn."""
    if not model.is_image or model.sample_shape[-1] not in CHANNEL_NAMES:
        raise ValueError(f"pictures have 1 or 3 channels, but samples are {model.sample_shape}.")


def _in_notebook():
    """Whether a Jupyter kernel runs this code; a terminal's IPython cannot show images."""
    if "IPython" not in sys.modules:
        return False
    return hasattr(sys.modules["IPython"].get_ipython(), "kernel")
