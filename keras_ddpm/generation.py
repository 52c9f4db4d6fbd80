"""`generate`: samples from a model's averaged weights."""

import numpy as np

from keras_ddpm.backend import network_function
from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.guidance import guide
from keras_ddpm.samplers import make_sampler, plan_timesteps
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.seeds import choose_seed, initial_noise
from keras_ddpm.samplers.trajectory import choose_frames
from keras_ddpm.validation import check_positive_int, nearest


class Generation:
    """The part of a `DiffusionModel` that draws samples; it knows nothing of training."""

    _sampling_loop = None  # made at the first call

    def generate(
        self,
        num_images=None,
        labels=None,
        guidance_scale=1.0,
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
            labels: the classes wanted, one or `num_images` of them: ints, or names among the
                model's `label_names`. None means "no label".
            guidance_scale: float, or floats `(num_images,)`: how strongly the samples are pushed
                towards their labels (Ho & Salimans 2022). 1 does not push, and costs half.
            sampler, steps, timesteps, spacing, eta: as for `keras_ddpm.sample`.
            clip_denoised: as for `keras_ddpm.sample`; None clips images, and points not.
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
        walk = self._plan_walk(
            num_images,
            labels,
            guidance_scale,
            sampler,
            steps,
            timesteps,
            spacing,
            eta,
            clip_denoised,
            seed,
            noise,
        )
        return self.sampling_loop.in_batches(
            **walk,
            frames=choose_frames(return_trajectory, len(walk["timesteps"])),
            batch_size=check_positive_int("batch_size", batch_size),
            progress=progress,
        )

    def watch(self, num_images=None, labels=None, frames=True, **options):
        """As `generate`, but a generator, to look on while the images emerge.

        It runs the program that `generate` runs, in pieces; all images are one batch.

        Args:
            num_images, labels: as for `generate`.
            frames: which steps to show, like `return_trajectory` of `generate`: True for every
                step, an int for so many evenly spaced ones, or a list of step numbers.
            **options: guidance_scale, sampler, steps, timesteps, spacing, eta, clip_denoised,
                seed and noise, likewise.

        Yields:
            `(t, x_t, x_start)`: the timestep, and two float32 NumPy arrays `(num_images, ...)`,
            the noisy state and x̂₀, as the network predicts it from that state. At the end comes
            -1, and the samples twice. Stacked, this is the `Trajectory` of `generate`.

        Raises:
            ValueError, TypeError: as `generate` does, when called and not at the first step.

        Example:

        ```python
        for t, x_t, x_start in model.watch(16, frames=20, steps=100, seed=0):
            save_image("now.png", image_grid(x_start))
        ```
        """
        walk = self._plan_walk(num_images, labels, **options)
        frames = choose_frames(frames, len(walk["timesteps"]))
        return self.sampling_loop.watch(**walk, frames=frames)

    def _plan_walk(
        self,
        num_images,
        labels,
        guidance_scale=1.0,
        sampler="ddim",
        steps=None,
        timesteps=None,
        spacing=None,
        eta=0.0,
        clip_denoised=None,
        seed=None,
        noise=None,
    ):
        """Checks the arguments of `generate`, and makes of them those of the sampling loop."""
        sampler = make_sampler(sampler, eta)
        timesteps = plan_timesteps(self.diffusion, sampler, steps, timesteps, spacing)
        seed = choose_seed(seed)
        noise = self._initial_noise(noise, num_images, labels, seed)
        return {
            "noise": noise,
            "sampler": sampler,
            "timesteps": timesteps,
            "seed": seed,
            "clip_denoised": check_clip_denoised(
                self.is_image if clip_denoised is None else clip_denoised
            ),
            "conditions": self.sampling_conditions(labels, guidance_scale, len(noise)),
        }

    @property
    def sampling_loop(self):
        """The `SamplingLoop` of the averaged network; it keeps the compiled programs."""
        if self._sampling_loop is None:
            self._sampling_loop = self.loop_of(self.ema_network)
        return self._sampling_loop

    def loop_of(self, network):
        """A new `SamplingLoop` of a network that takes what this model's do."""
        run = network_function(network, training=False)

        def predict(*inputs):
            return run(list(inputs))

        def denoise(x_t, t, *conditions):
            """The network's prediction; with (label, guidance scale) a guided one."""
            if len(conditions) == 2:
                label, scale = conditions
                return guide(predict, x_t, t, label, self.num_classes, scale)
            return predict(x_t, t, *conditions)

        return SamplingLoop(denoise, self.diffusion, network.variables, self.jit_compile)

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

    def sampling_conditions(self, labels, guidance_scale, num_images):
        """What the denoiser is told beside x_t and t: (), (labels,) or (labels, scales).

        Arguments and errors are those of `generate`.
        """
        scales = np.asarray(guidance_scale)
        if scales.dtype.kind not in "iuf" or scales.shape not in ((), (num_images,)):
            raise ValueError(
                f"guidance_scale={guidance_scale!r} must be one number, or {num_images} of them."
            )
        if not (np.isfinite(scales) & (scales >= 0)).all():
            raise ValueError(f"guidance_scale={guidance_scale!r} must be finite and at least 0.")
        guided = bool((scales != 1).any())
        if guided and labels is None:
            raise ValueError(
                f"guidance_scale={guidance_scale!r} needs labels to push towards. Give labels, or "
                "leave guidance_scale at 1."
            )
        if guided and self.label_dropout == 0:
            raise ValueError(
                f'guidance_scale={guidance_scale!r} compares with "no label", which this model '
                "never saw: it was made with label_dropout=0. Train with label_dropout=0.1."
            )
        labels = self._sampling_labels(labels, num_images)
        if labels is None:
            return ()
        if not guided:
            return (labels,)
        return labels, np.broadcast_to(scales, (num_images,)).astype("float32")

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
        array = self._named_labels(np.asarray(labels))
        if array.dtype.kind not in "iu" or array.shape not in ((), (num_images,)):
            raise ValueError(
                f"labels={labels!r} must be one class, or {num_images} of them, one an image: "
                "ints, or names."
            )
        if array.min() < 0 or array.max() >= self.num_classes:
            raise ValueError(
                f"labels={labels!r} must lie in [0, {self.num_classes - 1}], the network's classes."
            )
        return np.broadcast_to(array, (num_images,)).astype("int32")

    def _named_labels(self, labels):
        """Names as class numbers; numbers as they are."""
        if labels.dtype.kind != "U":
            return labels
        if self.label_names is None:
            raise ValueError(
                f"labels={labels.tolist()!r} are names, but the model has no label_names. Give "
                f"numbers from 0 to {self.num_classes - 1}."
            )
        for name in labels.ravel():
            if name not in self.label_names:
                raise ValueError(
                    f"labels: {str(name)!r} is not among the {self.num_classes} label_names"
                    + nearest(str(name), self.label_names)
                )
        return np.array([self.label_names.index(name) for name in labels.ravel()]).reshape(
            labels.shape
        )
