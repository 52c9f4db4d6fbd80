"""Distances between samples and data, logged while a network learns."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from keras_ddpm.callbacks.sampling import SamplingCallback, check_drawable
from keras_ddpm.devices import process
from keras_ddpm.files import make_writable
from keras_ddpm.metrics.extractors import extract
from keras_ddpm.metrics.frechet import frechet_distance, warn_if_singular
from keras_ddpm.metrics.kid import kid
from keras_ddpm.metrics.nearest import nearest_grid, nearest_neighbours
from keras_ddpm.plotting import save_image, visible_scale
from keras_ddpm.types import Extractor, PathLike
from keras_ddpm.validation import check_function, check_images, check_int, check_path

MAX_KID_IMAGES = 10_000  # of the data, because kid compares every pair
SHOWN = 16  # samples in the picture of nearest images


class EvaluateSamples(SamplingCallback):
    """Measures samples of the averaged weights against data, every few epochs.

    It logs `frechet`, the Fréchet distance, and `kid` with its standard error `kid_error`, in the
    epochs with an evaluation. Compare only Fréchet distances of equal `num_images`.

    Args:
        extractor: a function from images to features, see `extract`.
        images: the data, `(n, height, width, channels)`, n >= 3, uint8 or float in [-1, 1]. Their
            features are computed once, when training begins.
        every: int, epochs from one evaluation to the next.
        num_images: int >= 3, how many samples.
        directory: where to write `nearest_0005.png` after 5 epochs: samples, each with the image
            nearest to it in pixels to its right; None writes nothing.
        **sampling: see `SamplingCallback`.

    ```python
    images, labels = draw_flowers(300, image_size=16)
    mean_colour = lambda images: images.mean((1, 2))
    evaluate = EvaluateSamples(mean_colour, images, every=1, num_images=20, steps=5)
    model.fit(images, labels, batch_size=30, callbacks=[evaluate])
    ```
    """

    def __init__(
        self,
        extractor: Extractor,
        images: ArrayLike,
        every: int = 5,
        num_images: int = 1000,
        directory: PathLike | None = None,
        **sampling: Any,
    ):
        super().__init__(every, check_int("num_images", num_images, minimum=3), **sampling)
        self.extractor = check_function("extractor", extractor, "a function of images")
        self.images = check_images("images", images)
        if len(self.images) < 3:
            raise ValueError(f"images of shape {self.images.shape} must be at least 3.")
        self.directory = None if directory is None else check_path("directory", directory)

    def on_train_begin(self, logs=None):
        """Finds errors before the first step, and measures the data."""
        if process()[1] > 1:
            raise ValueError("EvaluateSamples measures in a single process: leave it out.")
        check_images("images", self.images, self.model.sample_shape)
        super().on_train_begin(logs)
        if self.directory is not None:
            check_drawable(self.model)
            make_writable(self.directory)
        self.reference = extract(self.extractor, self.images)
        warn_if_singular("num_images", self.reference, self.num_images)

    def on_epoch_end(self, epoch, logs=None):
        if not self.is_due(epoch):
            return
        samples, logs = self.draw(), {} if logs is None else logs
        features = extract(self.extractor, samples)
        some = self.reference[:: -(-len(self.reference) // MAX_KID_IMAGES)]
        logs["frechet"] = frechet_distance(features, self.reference)
        logs["kid"], logs["kid_error"] = kid(features, some)
        if self.directory is not None:
            indices, _ = nearest_neighbours(samples[:SHOWN], self.images)
            grid = nearest_grid(samples[:SHOWN], self.images, indices)
            save_image(self.directory / f"nearest_{epoch + 1:04d}.png", grid, visible_scale(grid))
