"""What callbacks that draw samples while a network learns have in common."""

import keras
import numpy as np

from keras_ddpm.samplers import make_sampler, plan_timesteps
from keras_ddpm.validation import check_positive_int


class SamplingCallback(keras.callbacks.Callback):
    """Draws the same samples every few epochs, without changing anything in the training.

    Every sampling starts from the same noise, so that one watches the network and not the draw.

    Args:
        every: int, epochs from one sampling to the next.
        num_images: int, how many.
        labels: optional, as for `DiffusionModel.generate`. None: a conditional network's classes
            in turn.
        sampler, steps, spacing, eta, guidance_scale, batch_size: as for
            `DiffusionModel.generate`.
        seed: int, for the noise.

    Raises:
        ValueError: when training begins, if the model cannot be sampled like this.
    """

    def __init__(
        self,
        every,
        num_images,
        labels=None,
        sampler="ddim",
        steps=None,
        spacing=None,
        eta=0.0,
        guidance_scale=1.0,
        seed=0,
        batch_size=64,
    ):
        super().__init__()
        self.every = check_positive_int("every", every)
        self.num_images = check_positive_int("num_images", num_images)
        self.labels = labels
        self.sampler, self.steps, self.spacing = make_sampler(sampler, eta), steps, spacing
        self.guidance_scale = guidance_scale
        self.seed = check_positive_int("seed", seed, minimum=0)
        self.batch_size = check_positive_int("batch_size", batch_size)

    def on_train_begin(self, logs=None):
        """Finds out before the first step what would go wrong after the first epoch."""
        model = self.model
        plan_timesteps(model.diffusion, self.sampler, self.steps, spacing=self.spacing)
        self.drawn_labels = self.labels
        if self.labels is None and model.num_classes is not None:
            self.drawn_labels = np.arange(self.num_images) % model.num_classes
        model.sampling_conditions(self.drawn_labels, self.guidance_scale, self.num_images)

    def is_due(self, epoch):
        """Whether epoch number `epoch`, counting from 0, ends with a sampling."""
        return (epoch + 1) % self.every == 0

    def draw(self):
        """The samples, float32 `(num_images, ...)`."""
        return self.model.generate(
            self.num_images,
            labels=self.drawn_labels,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            steps=self.steps,
            spacing=self.spacing,
            seed=self.seed,
            batch_size=self.batch_size,
        )
