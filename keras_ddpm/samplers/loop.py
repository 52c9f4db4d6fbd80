"""The reverse process as one compiled program, shared by every sampler.

A `while_loop` runs all steps on the device: no Python call a step on TensorFlow and JAX. The
program takes its first and last step as arguments, so that a progress bar, a trajectory or an
onlooker can run the same program in pieces, and tables that are longer than they need be, so that
it serves any number of steps. On several devices each takes an equal part of the batch.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import compile_function
from keras_ddpm.devices import count, split_batch
from keras_ddpm.samplers.base import Moment
from keras_ddpm.samplers.seeds import SEED_DTYPE, step_noise, step_seeds
from keras_ddpm.samplers.trajectory import make_trajectory

MOST_PROGRAMS = 32  # that a loop keeps: each η and each number of images has its own
TABLE_ROWS = 1024  # of the steps' numbers, or a multiple: what fits into one runs in one program


class Piece(NamedTuple):
    """Some steps: how many are done with them, x before, x̂₀ of the last one, and x after."""

    done: int
    x_t: Any
    x_start: Any
    x: Any


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
        pauses = range(0, len(timesteps), max(1, len(timesteps) // 20)) if on_progress else ()
        kept = []
        for piece in self.in_pieces(
            noise, sampler, timesteps, seeds, clip_denoised, conditions, given, frames, pauses
        ):
            if piece.done - 1 in frames:
                kept.append(tuple(map(ops.convert_to_numpy, (piece.x_t, piece.x_start))))
            if on_progress:
                on_progress(piece.done)
        return piece.x, kept

    def in_pieces(
        self, noise, sampler, timesteps, seeds, clip_denoised, conditions, given, frames, pauses=()
    ):
        """As `__call__`, but a generator, which pauses on the way.

        Args:
            frames: step numbers; each of these steps is a piece of its own.
            pauses: further step numbers at which a piece ends.

        Yields:
            A `Piece` after each.
        """
        steps = len(timesteps)
        rows = -(-(steps + 1) // TABLE_ROWS) * TABLE_ROWS
        shapes = tuple(noise.shape), rows, len(conditions), len(given)
        program = self._program(sampler, clip_denoised, *shapes)
        numbers = self._numbers(sampler, timesteps, rows)
        seeds = ops.convert_to_tensor(seeds.view(SEED_DTYPE))
        pauses = sorted({0, steps, *pauses, *frames, *(frame + 1 for frame in frames)})
        x, x_start = noise, noise
        for first, last in zip(pauses, pauses[1:]):
            before = x
            ends = (ops.convert_to_tensor(step, "int32") for step in (first, last))
            batch = (x, x_start, seeds, tuple(conditions), tuple(given))
            x, x_start = program(batch, *ends, *numbers)
            yield Piece(last, before, x_start, x)

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

    def watch(self, noise, sampler, timesteps, seed, clip_denoised, conditions, frames):
        """As `in_batches` with one batch, but yields its `frames` as they come, NumPy arrays.

        Yields:
            `(t, x_t, x_start)`, at last `(-1, samples, samples)`.
        """
        pieces = self.in_pieces(
            ops.convert_to_tensor(noise),
            sampler,
            timesteps,
            step_seeds(seed, len(noise), len(timesteps)),
            clip_denoised,
            [ops.convert_to_tensor(condition) for condition in conditions],
            (),
            frames,
        )
        for piece in pieces:
            if piece.done - 1 in frames:
                x_t, x_start = map(ops.convert_to_numpy, (piece.x_t, piece.x_start))
                yield int(timesteps[piece.done - 1]), x_t, x_start
        samples = ops.convert_to_numpy(piece.x)
        yield -1, samples, samples

    def whole(self, sampler, timesteps, clip_denoised=False):
        """All the steps as one function `(noise, seeds, conditions) -> samples`, not compiled.

        Arguments are those of `__call__`; `seeds` may be None for samplers that add no noise.
        """
        program = self._build(sampler, clip_denoised)

        def walk(noise, seeds, conditions):
            ends = (ops.convert_to_tensor(step, "int32") for step in (0, len(timesteps)))
            numbers = self._numbers(sampler, timesteps)
            x, _ = program((noise, noise, seeds, conditions, ()), *ends, *numbers)
            return x

        return walk

    def _numbers(self, sampler, timesteps, rows=0):
        """Timesteps, the clean image's -1 among them, and the coefficients of all steps.

        Zeros, which no step reads, fill each table up to `rows`.
        """

        def table(values, dtype):
            filling = np.zeros(max(0, rows - len(values)))
            return ops.convert_to_tensor(np.append(values, filling).astype(dtype))

        coefficients = sampler.coefficients(self.diffusion, timesteps)
        return (
            table(np.append(timesteps, -1), "int32"),
            {name: table(values, "float32") for name, values in coefficients.items()},
        )

    def _program(self, sampler, clip_denoised, *shapes):
        key = (sampler, clip_denoised, *shapes)
        if key not in self._programs:
            if len(self._programs) >= MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]  # the oldest
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
