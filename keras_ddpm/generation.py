"""`generate`: samples from a model's averaged weights."""

import numpy as np

from keras_ddpm.samplers import make_sampler, plan_timesteps
from keras_ddpm.samplers.loop import SamplingLoop, choose_frames, initial_noise
from keras_ddpm.validation import check_positive_int


class Generation:
    """The part of a `DiffusionModel` that draws samples; it knows nothing of training."""

    _sampling_loop = None  # made at the first call; it keeps the compiled programs

    def generate(
        self,
        num_images=None,
        labels=None,
        sampler="ddim",
        steps=None,
        timesteps=None,
        spacing=None,
        eta=0.0,
        clip_denoised=None,
        seed=None,
        noise=None,
        batch_size=64,
        progress=False,
        return_trajectory=False,
    ):
        """Samples from the averaged weights.

        Args:
            num_images: int, how many; not needed with `noise` or a list of labels.
            labels: int, or ints `(num_images,)`, the classes wanted; None means "no label".
            sampler, steps, timesteps, spacing, eta: as for `keras_ddpm.sample`.
            clip_denoised: bool, whether to clip each x̂₀ to [-1, 1]; None: images yes, points no.
            seed: optional int. The same seed gives the same images, whatever `batch_size`.
            noise: optional float array `(num_images, ...)`, x_T instead of drawing it.
            batch_size: int, how many images are in memory at once.
            progress: bool, whether to show a progress bar.
            return_trajectory: True for every step, an int for so many evenly spaced ones, or a
                list of step numbers.

        Returns:
            float32 NumPy array `(num_images, ...)`, images in [-1, 1]. With `return_trajectory`
            also a `Trajectory`.
        """
        sampler = make_sampler(sampler, eta)
        timesteps = plan_timesteps(self.diffusion, sampler, steps, timesteps, spacing)
        frames = choose_frames(return_trajectory, len(timesteps))
        batch_size = check_positive_int("batch_size", batch_size)
        seed = np.random.SeedSequence().entropy if seed is None else seed
        noise = self._initial_noise(noise, num_images, labels, seed)
        labels = self._sampling_labels(labels, len(noise))
        clip_denoised = self.is_image if clip_denoised is None else clip_denoised
        if self._sampling_loop is None:
            self._sampling_loop = SamplingLoop(
                lambda *inputs: self.ema_network(list(inputs), training=False),
                self.diffusion,
                self.ema_network.variables,
                self.jit_compile,
            )
        conditions = () if labels is None else (labels,)
        return self._sampling_loop.in_batches(
            noise,
            sampler,
            timesteps,
            seed,
            clip_denoised,
            conditions,
            frames,
            batch_size,
            progress,
        )

    def _initial_noise(self, noise, num_images, labels, seed):
        if noise is not None:
            noise = np.asarray(noise, dtype="float32")
            if noise.shape[1:] != self.sample_shape or num_images not in (None, len(noise)):
                raise ValueError(
                    f"noise has shape {noise.shape}, but must be (num_images, *{self.sample_shape})"
                    f" with num_images={num_images}."
                )
            return noise
        if num_images is None and np.ndim(labels) == 1:
            num_images = len(labels)
        num_images = check_positive_int("num_images", num_images)
        return initial_noise(seed, (num_images, *self.sample_shape))

    def _sampling_labels(self, labels, num_images):
        """Class numbers as int32 `(num_images,)`; None for an unconditional network."""
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(
                    f"labels={labels!r} were given, but the network has no classes. Build it with "
                    "num_classes and train it with labels."
                )
            return None
        if labels is None:
            return np.full(num_images, self.num_classes, "int32")  # "no label"
        array = np.asarray(labels)
        if array.dtype.kind not in "iu" or array.shape not in ((), (num_images,)):
            raise ValueError(
                f"labels={labels!r} must be one int, or {num_images} of them, one an image."
            )
        if array.min() < 0 or array.max() >= self.num_classes:
            raise ValueError(
                f"labels={labels!r} must lie in [0, {self.num_classes - 1}], the network's classes."
            )
        return np.broadcast_to(array, (num_images,)).astype("int32")
