"""Distances between samples and data, logged while a network learns."""

import numpy as np

from keras_ddpm.devices import process
from keras_ddpm.files import make_writable
from keras_ddpm.metrics.extractors import check_images, extract, statistics_of
from keras_ddpm.metrics.frechet import frechet_distance_of_moments, warn_if_singular
from keras_ddpm.metrics.kernel import kernel_distance
from keras_ddpm.metrics.nearest import nearest_grid, nearest_neighbours
from keras_ddpm.metrics.statistics import moments
from keras_ddpm.plotting import save_image
from keras_ddpm.sampling_callback import SamplingCallback
from keras_ddpm.validation import check_positive_int

MOST_KERNEL_IMAGES = 10_000  # of the data, as the kernel distance looks at every pair
MOST_NEAREST_IMAGES = 2_000  # among which nearest ones are found in a moment
SHOWN = 16  # samples in the picture of nearest images


class EvaluateSamples(SamplingCallback):
    """Measures samples of the averaged weights against data, every few epochs.

    It logs `frechet`, the Fréchet distance, and `kernel` with its standard error `kernel_error`.
    Every time the same noise is sampled, so that the curve shows the network and not the draw. In
    epochs between they are logged as NaN, so that `CSVLogger`, placed after this callback, finds
    the same columns in every epoch. The training is the same with and without it.

    A Fréchet distance depends on `num_images`: compare only equal ones.

    Args:
        extractor: a function from images to features, see `extract`.
        images: what the samples should be like, `(n, height, width, channels)`, n >= 3, uint8 or
            float in [-1, 1]. Their features are computed once, when training begins. The kernel
            distance takes 10 000 of them at most, evenly spaced.
        every: int, epochs from one evaluation to the next.
        num_images: int >= 3, how many samples.
        directory: where to write `nearest_0005.png` after 5 epochs: samples, each with the image
            nearest to it in pixels to its right; None writes nothing.
        nearest: bool, whether to do so; `"auto"` does up to 2 000 images.
        **sampling: labels, sampler, steps, spacing, eta, guidance_scale, seed and batch_size, see
            `SamplingCallback`.

    Raises:
        OSError: when training begins, if `directory` cannot be written to.
        TypeError, ValueError: when training begins, if the model cannot be sampled like this, or
            the extractor fails.

    Warns:
        UserWarning: when training begins, if there are no more samples, or no more images, than
            features.

    Example:

    ```python
    lenet = LeNetFeatures(images, labels, cache="runs/features")
    evaluate = EvaluateSamples(lenet, images, every=5, num_images=2000, steps=20)
    model.fit(images, epochs=100, callbacks=[evaluate, keras.callbacks.CSVLogger("log.csv")])
    ```
    """

    def __init__(
        self,
        extractor,
        images,
        every=5,
        num_images=1000,
        directory=None,
        nearest="auto",
        **sampling,
    ):
        check_positive_int("num_images", num_images, minimum=3)
        super().__init__(every, num_images, **sampling)
        if not callable(extractor):
            raise TypeError(f"extractor must be a function of images, got {extractor!r}.")
        self.extractor = extractor
        self.images = check_images("images", images)
        if len(self.images) < 3:
            raise ValueError(f"images must be at least 3, got {len(self.images)}.")
        self.directory = directory
        few = len(self.images) <= MOST_NEAREST_IMAGES
        self.shows_nearest = directory is not None and (few if nearest == "auto" else nearest)

    def on_train_begin(self, logs=None):
        """Finds out before the first step what would go wrong later; measures the data."""
        if process()[1] > 1:
            raise ValueError(
                "EvaluateSamples measures in a single process: leave it out, and evaluate the "
                "saved model afterwards."
            )
        if self.images.shape[1:] != self.model.sample_shape:
            raise ValueError(
                f"images of shape {self.images.shape} do not compare with the model's samples of "
                f"{self.model.sample_shape}."
            )
        super().on_train_begin(logs)
        if self.shows_nearest:
            self.directory = make_writable(self.directory)
        self.reference = statistics_of(self.extractor, self.images)
        warn_if_singular("images", self.reference, self.reference.count)
        warn_if_singular("num_images", self.reference, self.num_images)
        count = min(len(self.images), MOST_KERNEL_IMAGES)
        chosen = np.linspace(0, len(self.images) - 1, count).round().astype(int)
        self.reference_features = extract(self.extractor, self.images[chosen])

    def on_epoch_end(self, epoch, logs=None):
        results = dict.fromkeys(("frechet", "kernel", "kernel_error"), np.nan)
        if self.is_due(epoch):
            samples = self.draw()
            results = self._measure(extract(self.extractor, samples))
            if self.shows_nearest:
                self._show(samples[:SHOWN], epoch)
        if logs is not None:
            logs.update(results)

    def _measure(self, features):
        data = self.reference.mean, self.reference.covariance
        kernel, error = kernel_distance(features, self.reference_features)
        frechet = frechet_distance_of_moments(*moments(features), *data)
        return {"frechet": frechet, "kernel": kernel, "kernel_error": error}

    def _show(self, samples, epoch):
        indices, _ = nearest_neighbours(samples, self.images)
        grid = nearest_grid(samples, self.images, indices)
        save_image(self.directory / f"nearest_{epoch + 1:04d}.png", grid)
