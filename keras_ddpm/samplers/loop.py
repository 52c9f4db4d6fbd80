"""The reverse process as one compiled program, shared by every sampler.

A `while_loop` runs all steps on the device: no Python call a step on TensorFlow and JAX. The
program takes its first and last step as arguments, so that a progress bar or a trajectory can
run the same program in pieces. On several devices each takes an equal part of the batch.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import compile_function
from keras_ddpm.devices import count, split_batch
from keras_ddpm.samplers.base import Moment

# A seed dtype for each backend: torch has no uint32 arithmetic.
SEED_DTYPE = "int32" if keras.backend.backend() == "torch" else "uint32"
# Only JAX can vectorise random numbers that are seeded for each image.
map_images = ops.vectorized_map if keras.backend.backend() == "jax" else ops.map


@dataclass
class Trajectory:
    """What the reverse process looked like on the way.

    Attributes:
        timesteps: int array `(frames,)`, descending; the last is -1, the finished image.
        x_t: float32 array `(frames, batch, ...)`, the noisy state.
        x_start: float32 array `(frames, batch, ...)`, x̂₀ as predicted from that state.
    """

    timesteps: np.ndarray
    x_t: np.ndarray
    x_start: np.ndarray


class SamplingLoop:
    """Samples from one denoiser, and remembers its compiled programs.

    Args:
        denoiser: function `(x_t, t, *conditions) -> output`, where the output is what
            `diffusion.prediction` says.
        diffusion: a `GaussianDiffusion`.
        variables: the Keras variables that the denoiser reads.
        jit_compile: bool, whether TensorFlow compiles with XLA.
    """

    def __init__(self, denoiser, diffusion, variables=(), jit_compile=False):
        self.denoiser, self.diffusion = denoiser, diffusion
        self.variables, self.jit_compile = list(variables), jit_compile
        self.num_compilations = 0
        self._programs = {}

    def __call__(
        self,
        noise,
        sampler,
        timesteps,
        seeds,
        clip_denoised=False,
        conditions=(),
        given=(),
        frames=(),
        on_progress=None,
    ):
        """Runs the reverse process from `noise` along `timesteps`.

        Args:
            noise: float32 tensor `(batch, ...)`, x_T.
            sampler: a `Sampler`.
            timesteps: int32 array `(steps,)`, descending unless the sampler wants otherwise.
            seeds: uint32 array `(batch,)`, see `step_seeds`.
            clip_denoised: what happens to each x̂₀, see `clip_start`.
            conditions: tensors `(batch, ...)`, further arguments of the denoiser.
            given: tensors `(batch, ...)` for the sampler's steps, see `Moment`.
            frames: step numbers at which to keep x_t and x̂₀.
            on_progress: optional function of the number of steps done.

        Returns:
            The samples, a tensor like `noise`, and a list of (x_t, x̂₀) pairs, one a frame.
        """
        steps = len(timesteps)
        coefficients = {
            name: ops.convert_to_tensor(values.astype("float32"))
            for name, values in sampler.coefficients(self.diffusion, timesteps).items()
        }
        shapes = tuple(noise.shape), steps, len(conditions), len(given)
        program = self._program(sampler, clip_denoised, *shapes)
        timesteps_and_end = ops.convert_to_tensor(np.append(timesteps, -1).astype("int32"))
        seeds = ops.convert_to_tensor(seeds.view(SEED_DTYPE))
        pauses = {0, steps, *frames, *(frame + 1 for frame in frames)}
        if on_progress:
            pauses |= set(range(0, steps, max(1, steps // 20)))
        pauses = sorted(pauses)

        kept = []
        x, x_start = noise, noise
        for first, last in zip(pauses, pauses[1:]):
            before = x
            ends = (ops.convert_to_tensor(step, "int32") for step in (first, last))
            batch = (x, x_start, seeds, tuple(conditions), tuple(given))
            x, x_start = program(batch, *ends, timesteps_and_end, coefficients)
            if first in frames:
                kept.append((ops.convert_to_numpy(before), ops.convert_to_numpy(x_start)))
            if on_progress:
                on_progress(last)
        return x, kept

    def in_batches(
        self,
        noise,
        sampler,
        timesteps,
        seed,
        clip_denoised=False,
        conditions=(),
        given=(),
        frames=(),
        batch_size=64,
        progress=False,
    ):
        """As `__call__`, for NumPy arrays of any length and with bounded memory.

        Returns:
            float32 NumPy samples like `noise`; with `frames` a tuple of these and a `Trajectory`.
        """
        total, steps = len(noise), len(timesteps)
        devices = count(self.variables)
        size = -(-min(batch_size, total) // devices) * devices
        seeds = step_seeds(seed, total, steps)
        bar = keras.utils.Progbar(-(-total // size) * steps, unit_name="step") if progress else None
        samples, kept = [], []
        for number, start in enumerate(range(0, total, size)):
            # The last batch is filled up with copies, so that one program serves all batches.
            index = np.minimum(np.arange(start, start + size), total - 1)
            x, frames_of_batch = self(
                ops.convert_to_tensor(noise[index]),
                sampler,
                timesteps,
                seeds[index],
                clip_denoised,
                [ops.convert_to_tensor(condition[index]) for condition in conditions],
                [ops.convert_to_tensor(tensor[index]) for tensor in given],
                frames,
                bar and (lambda done, offset=number * steps: bar.update(offset + done)),
            )
            samples.append(ops.convert_to_numpy(x)[: total - start])
            kept.append([[part[: total - start] for part in frame] for frame in frames_of_batch])
        samples = np.concatenate(samples)
        if not frames:
            return samples
        frames_of_all = [
            [np.concatenate(parts) for parts in zip(*(batch[f] for batch in kept))]
            for f in range(len(frames))
        ]
        return samples, make_trajectory(timesteps, frames, frames_of_all, samples)

    def _program(self, sampler, clip_denoised, *shapes):
        key = (sampler, clip_denoised, *shapes)
        if key not in self._programs:
            program = split_batch(self._build(sampler, clip_denoised), self.variables)
            self._programs[key] = compile_function(program, self.variables, self.jit_compile)
        return self._programs[key]

    def _build(self, sampler, clip_denoised):
        def program(batch, first, last, timesteps, coefficients):
            self.num_compilations += 1  # runs only while a backend traces
            x, x_start, seeds, conditions, given = batch

            def denoise(x_t, t):
                t = ops.broadcast_to(t, (ops.shape(x_t)[0],))
                output = self.denoiser(x_t, t, *conditions)
                start = self.diffusion.predict_start(x_t, t, output, clip_denoised)
                return start, self.diffusion.predict_noise_from_start(x_t, t, start)

            def step(i, x, x_start):
                c = {name: ops.take(values, i) for name, values in coefficients.items()}
                noise = step_noise(seeds, i, x.shape[1:]) if sampler.is_stochastic else None
                t, t_next = ops.take(timesteps, i), ops.take(timesteps, i + 1)
                now = Moment(t, t_next, x_start, noise, given)
                return i + 1, *sampler.step(denoise, x, c, now)

            _, x, x_start = ops.while_loop(lambda i, *_: i < last, step, (first, x, x_start))
            return x, x_start

        return program


def make_trajectory(timesteps, frames, kept, samples):
    """A `Trajectory` from what the loop kept: a pair (x_t, x̂₀) a frame, and the samples."""
    samples = ops.convert_to_numpy(samples)
    x_t, x_start = (np.stack([frame[part] for frame in kept] + [samples]) for part in (0, 1))
    return Trajectory(np.append(timesteps[list(frames)], -1), x_t, x_start)


def choose_frames(return_trajectory, steps):
    """Step numbers at which to keep a frame: all, so many evenly spaced ones, or as listed."""
    if return_trajectory is False:
        return ()
    if return_trajectory is True:
        return tuple(range(steps))
    if isinstance(return_trajectory, int):
        if return_trajectory < 1:
            raise ValueError(f"return_trajectory={return_trajectory} must be at least 1 frame.")
        count = min(return_trajectory, steps)
        return tuple(np.unique(np.linspace(0, steps - 1, count).round().astype(int)).tolist())
    frames = tuple(sorted(set(return_trajectory)))
    if not frames or not 0 <= frames[0] <= frames[-1] < steps:
        raise ValueError(
            f"return_trajectory={return_trajectory!r} must list step numbers from 0 to {steps - 1}."
        )
    return frames


def choose_seed(seed):
    """The seed given, or a fresh one."""
    return np.random.SeedSequence().entropy if seed is None else seed


def initial_noise(seed, shape):
    """x_T from NumPy's generator: one seed gives one x_T on every backend."""
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def step_seeds(seed, num_images, steps):
    """One number for each image; image i at step s draws its noise from `seeds[i] + s`.

    All of these differ, so an image's noise depends neither on the batch it is drawn in nor
    on its neighbours.
    """
    offset = np.random.SeedSequence([seed, 1]).generate_state(1, "uint32")[0]
    return (offset + np.arange(num_images, dtype="uint64") * steps).astype("uint32")


def step_noise(seeds, step, shape):
    """Standard normal noise of one step, each image's from its own seed."""
    return map_images(lambda seed: keras.random.normal(shape, seed=_Seed(seed, step)), seeds)


class _Seed(keras.random.SeedGenerator):
    """A seed that is a tensor: Keras takes only ints and SeedGenerators."""

    def __init__(self, seed, step):
        self._value = ops.stack([ops.cast(seed, SEED_DTYPE), ops.cast(step, SEED_DTYPE)])

    def next(self, ordered=True):
        return self._value
