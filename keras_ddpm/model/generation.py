"""`generate`: samples from a model's averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_ddpm.backend import network_function
from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.pixels import to_float
from keras_ddpm.samplers import Sampler, choose_frames, get_sampler
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.noise import choose_seed, initial_noise
from keras_ddpm.types import Labels
from keras_ddpm.validation import check_array, check_bool, check_int, check_labels


class Generation:
    """The part of a `DiffusionModel` that samples."""

    def generate(
        self,
        num_images: int | None = None,
        labels: Labels | None = None,
        guidance_scale: float = 1.0,
        sampler: str | Sampler | None = None,
        clip_denoised: bool | float | None = None,
        seed: int | None = None,
        noise: ArrayLike | None = None,
        condition: ArrayLike | None = None,
        given: Sequence[ArrayLike] = (),
        batch_size: int = 64,
        progress: bool | None = None,
        return_trajectory: bool | int | Sequence[int] = False,
        **options: Any,
    ) -> Any:
        """Samples from the averaged weights.

        Args:
            num_images: int, how many; not needed with `noise`, `condition` or a list of labels.
            labels: one class, or `num_images` of them: ints, names in the model's `class_names`, or
                both. None means "no label".
            guidance_scale: float, or floats `(num_images,)`, the weight of classifier-free guidance
                towards the labels (Ho & Salimans 2022), or towards the condition in a model without
                classes. 1 is no guidance, and takes half the time.
            sampler: a name in `keras_ddpm.samplers.SAMPLERS`, or a `Sampler`. None, without other
                options, is the model's own, which presets have; else it is DDIM.
            clip_denoised: see `clip_start`; None clips images, and does not clip points.
            seed: optional int. A seed gives the same images for every `batch_size`. None follows
                `keras.utils.set_random_seed`.
            noise: optional float array `(num_images, ...)`, x_T.
            condition: what a network with a condition needs, uint8 or float
                `(num_images, height, width, condition_channels)`; all zeros are "no condition".
                `upscale`, `colour` and `inpaint` make it from images.
            given: arrays `(num_images, ...)` for the sampler's steps, see `StepInputs`.
            batch_size: int, how many images are in memory at once.
            progress: bool, whether to show a progress bar; None shows one in a terminal, after two
                seconds.
            return_trajectory: True for every step, an int for so many evenly spaced ones, or a
                list of step numbers.
            **options: options of a sampler given by name: steps, spacing, timesteps, eta.

        Returns:
            float32 NumPy array `(num_images, ...)`, images in [-1, 1]. With `return_trajectory`
            also a `Trajectory`.

        ```python
        images = model.generate(16, labels=3, guidance_scale=2.0, sampler="ddim", steps=20, seed=0)
        ```
        """
        request = self.check_request(
            num_images,
            labels,
            guidance_scale,
            sampler,
            clip_denoised,
            seed,
            noise,
            condition,
            **options,
        )
        steps = len(request["sampler"].plan(self.diffusion))
        request["frames"] = choose_frames("return_trajectory", return_trajectory, steps)
        request["batch_size"] = check_int("batch_size", batch_size)
        if progress is not None:
            check_bool("progress", progress)
        count = len(request["noise"])
        if not isinstance(given, tuple | list) or any(np.shape(a)[:1] != (count,) for a in given):
            raise ValueError(f"given must be a tuple of arrays ({count}, ...).")
        request["sampler"].check_given(given, request["noise"].shape)
        found = self.sampling_loop.sample(**request, given=given, progress=progress)
        if not np.isfinite(found[0] if request["frames"] else found).all():
            raise FloatingPointError(
                "the samples are NaN or infinite: the weights are, or clip_denoised=True is needed."
            )
        return found

    def watch(
        self,
        num_images: int | None = None,
        labels: Labels | None = None,
        frames: bool | int | Sequence[int] = True,
        **options: Any,
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """As `generate`, but a generator that yields while it samples. All images are one batch.

        `frames` says which steps to yield, as `return_trajectory` of `generate`.

        Yields:
            `(t, x_t, x_start)`: the timestep, and two float32 NumPy arrays `(num_images, ...)`,
            the noisy state and x̂₀ as predicted from it; at the end -1, and the samples twice.

        ```python
        for t, x_t, x_start in model.watch(16, frames=5, steps=20, seed=0):
            save_image("now.png", image_grid(x_start))
        ```
        """
        request = self.check_request(num_images, labels, **options)
        request["sampler"].check_given((), request["noise"].shape)
        frames = choose_frames("frames", frames, len(request["sampler"].plan(self.diffusion)))
        return self.sampling_loop.watch(**request, frames=frames)

    def check_request(
        self,
        num_images,
        labels,
        guidance_scale=1.0,
        sampler=None,
        clip_denoised=None,
        seed=None,
        noise=None,
        condition=None,
        **options,
    ):
        """The arguments of `generate`, checked, as those of the sampling loop."""
        self.check_layout()
        sampler = self.choose_sampler(sampler, **options)
        sampler.coefficients(self.diffusion, sampler.plan(self.diffusion))  # may refuse
        seed = choose_seed(seed)
        if noise is None:
            if num_images is None and np.ndim(condition):
                num_images = len(condition)
            if num_images is None and np.ndim(labels) == 1:
                num_images = len(labels)
            num_images = check_int("num_images", num_images)
            noise = initial_noise(seed, (num_images, *self.sample_shape))
        elif num_images is not None:
            num_images = check_int("num_images", num_images)
        noise = check_array("noise", noise, (num_images, *self.sample_shape))
        return {
            "noise": noise.astype("float32"),
            "sampler": sampler,
            "seed": seed,
            "clip_denoised": self.choose_clip(clip_denoised),
            "conditions": self.sampling_conditions(labels, guidance_scale, condition, len(noise)),
        }

    def choose_sampler(self, sampler=None, **options):
        """The sampler that `generate` uses for these arguments."""
        if sampler is None and all(value is None for value in options.values()):
            sampler = self.sampler
        sampler = "ddim" if sampler is None else sampler
        return get_sampler(sampler, **options).suited_to(self.sample_shape)

    def choose_clip(self, clip_denoised):
        """`clip_denoised`, where None clips images and does not clip points."""
        return check_clip_denoised(self.is_image if clip_denoised is None else clip_denoised)

    def sampling_conditions(self, labels, guidance_scale, condition, num_images):
        """What the denoiser gets besides x_t and t: labels, condition and scales, as needed."""
        scales = np.asarray(guidance_scale)
        fits = scales.dtype.kind in "iuf" and scales.shape in ((), (num_images,))
        if not fits or not ((scales >= 0) & (scales < 1e30)).all():  # NaN is neither
            raise ValueError(
                f"guidance_scale={guidance_scale!r} must be one number of at least 0, or "
                f"{num_images} of them."
            )
        is_guided = bool((scales != 1).any())
        if is_guided:
            self.check_guidance(f"guidance_scale={guidance_scale!r}", labels)
        found = []
        if self.num_classes is None and labels is not None:
            raise ValueError(
                f"labels={labels!r} were given, but the network has no classes. Build it with "
                "num_classes and train it with labels."
            )
        if self.num_classes is not None and labels is None:
            found.append(np.full(num_images, self.num_classes, "int32"))  # "no label"
        elif labels is not None:
            names = self.class_names
            found.append(check_labels("labels", labels, num_images, self.num_classes, names))
        if self.condition_shape is not None or condition is not None:
            found.append(self.check_condition(condition, num_images))
        if is_guided:
            found.append(np.broadcast_to(scales, (num_images,)).astype("float32"))
        return tuple(found)

    def check_condition(self, condition, num_images):
        """Conditions as float32 `(num_images, ...)`; uint8 goes from [0, 255] to [-1, 1]."""
        if self.condition_shape is None:
            raise ValueError(
                "condition was given, but the network takes none. Build it with condition_channels."
            )
        shape = (num_images, *self.condition_shape)
        if condition is None:
            how = "" if self.conditioning is None else f", which {self.conditioning.use}"
            raise ValueError(f"condition=None: the model needs an array of shape {shape}{how}.")
        condition = check_array("condition", condition, shape)
        if condition.dtype.kind != "f" and condition.dtype != "uint8":
            raise TypeError(f"condition has dtype {condition.dtype}; give uint8 or float.")
        return to_float(condition)

    def check_guidance(self, argument, labels):
        """Refuses guidance for a model that was never trained without labels or condition."""
        name = "condition" if self.num_classes is None else "label"
        if (labels if name == "label" else self.condition_shape) is None:
            raise ValueError(
                f"{argument} needs labels to guide towards, of a model with classes; without them "
                "leave it at 1."
            )
        if getattr(self, f"{name}_dropout") == 0:
            raise ValueError(
                f'{argument} compares with "no {name}", which this model was not trained for '
                f"({name}_dropout=0). Train with {name}_dropout=0.1."
            )

    @property
    def sampling_loop(self):
        """The `SamplingLoop` of the averaged network; it keeps the compiled programs."""
        if self._sampling_loop is None:
            self._sampling_loop = self.loop_of(self.ema_network)
        return self._sampling_loop

    def loop_of(self, network):
        """A new `SamplingLoop` of a network with the inputs of this model's."""
        run = network_function(network, training=False)

        def predict(*inputs):
            return run(list(inputs))

        def denoise(x_t, t, *conditions):
            if len(conditions) == len(network.inputs) - 2:
                return predict(x_t, t, *conditions)
            *conditions, scale = conditions
            return guide(predict, x_t, t, conditions, self.num_classes or 0, scale)

        return SamplingLoop(denoise, self.diffusion, network.variables, self.jit_compile)


def guide(denoiser, x_t, t, conditions, nothing, scale):
    """Classifier-free guidance: Ho & Salimans (2022).

    ϵ = ϵ_uncond + s (ϵ_cond − ϵ_uncond), both from one doubled batch. With s = 1 that is ϵ_cond;
    Ho & Salimans' w (eq. 6) is s − 1. x₀ and v are linear in ϵ, so the same formula guides them.
    `scale` holds s for each image, float32 `(batch,)`. The first of the conditions is what is
    guided towards, and `nothing` the number that stands for none; the others are in both.
    """
    first, *others = conditions
    pairs = [(x_t, x_t), (t, t), (first, ops.full_like(first, nothing))]
    pairs += [(other, other) for other in others]
    both = denoiser(*map(ops.concatenate, pairs))
    conditional, unconditional = ops.split(both, 2)
    scale = ops.reshape(scale, (-1,) + (1,) * (len(x_t.shape) - 1))
    return unconditional + scale * (conditional - unconditional)
