"""The reverse process as one compiled program, the same for every sampler.

On TensorFlow and JAX a `while_loop` runs all steps without Python between them. The program takes
its first and last step as arguments, so that progress bars, trajectories and `watch` run it in
pieces. Its tables of coefficients have spare rows, so that it serves any number of steps.
"""

import sys
import time

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import ANY_SIZE, compile_function
from keras_ddpm.devices import gather_batch, num_devices, process, split_batch
from keras_ddpm.samplers.base import StepInputs
from keras_ddpm.samplers.noise import SEED_DTYPE, step_noise, step_seeds
from keras_ddpm.samplers.trajectory import make_trajectory
from keras_ddpm.validation import check_output

MAX_PROGRAMS = 32  # that a loop keeps: one for each sampler, and on JAX for each size of batch
TABLE_ROWS = 1024  # rows of a table of coefficients, or a multiple
PIECES = 20  # in which a progress bar moves
PATIENCE = 2  # seconds until it appears where nobody asked for it


class SamplingLoop:
    """Samples from one denoiser, and keeps its compiled programs.

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

    def run(
        self,
        noise,
        sampler,
        seeds,
        clip_denoised=False,
        conditions=(),
        given=(),
        frames=(),
        pauses=(),
    ):
        """Runs the reverse process from x_T, a float32 tensor, piece by piece.

        `conditions` are further arguments of the denoiser, `given` those of the sampler's steps,
        both tensors `(batch, ...)`. `seeds` are those of `step_seeds`. A piece ends before and
        after each step in `frames`, and at those in `pauses`.

        Yields:
            After each piece the number of steps done, x, and the pair (x_t, x̂₀) of its only step
            if that is a frame, else None.
        """
        timesteps = sampler.plan(self.diffusion)
        steps = len(timesteps)
        rows = -(-(steps + 1) // TABLE_ROWS) * TABLE_ROWS
        tables = self._tables(sampler, timesteps, rows)
        shapes = noise.shape[1:] if ANY_SIZE else (*noise.shape, rows)
        program = self._program(sampler, clip_denoised, shapes, len(conditions), len(given))
        seeds = ops.convert_to_tensor(seeds.view(SEED_DTYPE))
        conditions, given = (tuple(map(ops.convert_to_tensor, a)) for a in (conditions, given))
        ends = sorted({0, steps, *pauses, *frames, *(frame + 1 for frame in frames)})
        x = x_start = noise
        for first, last in zip(ends, ends[1:]):
            before = x
            numbers = (ops.convert_to_tensor(step, "int32") for step in (first, last))
            x, x_start = program((x, x_start, seeds, conditions, given), *numbers, *tables)
            frame = None
            if first in frames:
                frame = ops.convert_to_numpy(before), ops.convert_to_numpy(x_start)
            yield last, x, frame

    def sample(self, noise, sampler, seed, batch_size=64, frames=(), progress=None, **options):
        """Samples from NumPy arrays of any length, with at most `batch_size` of them in memory.

        Returns float32 NumPy samples like `noise`; with `frames` also a `Trajectory`. The other
        arguments are those of `run`, with arrays of the length of `noise`.
        """
        timesteps = sampler.plan(self.diffusion)
        total, steps, devices = len(noise), len(timesteps), num_devices()
        size = -(-min(batch_size, total) // devices) * devices
        seeds = step_seeds(seed, total, steps)
        if (show := progress) is None:  # several processes must run the same pieces
            show = sys.stdout.isatty() and process()[1] == 1
        visible_at = time.perf_counter() + (PATIENCE if progress is None else 0)
        bar = keras.utils.Progbar(-(-total // size) * steps, unit_name="step") if show else None
        options["pauses"] = range(0, steps, max(1, steps // PIECES)) if show else ()
        samples, kept = [], []
        for number, start in enumerate(range(0, total, size)):
            # The last batch is filled up with copies, so that one program serves all batches.
            index, rest = np.minimum(np.arange(start, start + size), total - 1), total - start
            arrays = {
                name: [array[index] for array in options.get(name, ())]
                for name in ("conditions", "given")
            }
            x_t, frames_of_batch = ops.convert_to_tensor(noise[index]), []
            pieces = self.run(x_t, sampler, seeds[index], frames=frames, **{**options, **arrays})
            for done, x_t, frame in pieces:
                if frame:
                    frames_of_batch.append([part[:rest] for part in frame])
                if bar and time.perf_counter() >= visible_at:
                    bar.update(number * steps + done)
            samples.append(ops.convert_to_numpy(x_t)[:rest])
            kept.append(frames_of_batch)
        samples = np.concatenate(samples)
        if not frames:
            return samples
        kept = [[np.concatenate(parts) for parts in zip(*batches)] for batches in zip(*kept)]
        return samples, make_trajectory(timesteps, frames, kept, samples)

    def watch(self, noise, sampler, seed, frames, **options):
        """As `sample` with one batch, but yields `(t, x_t, x_start)` of its frames as soon as they
        are there, and at last `(-1, samples, samples)`.
        """
        timesteps = sampler.plan(self.diffusion)
        seeds = step_seeds(seed, len(noise), len(timesteps))
        noise = ops.convert_to_tensor(noise)
        for done, x_t, frame in self.run(noise, sampler, seeds, frames=frames, **options):
            if frame:
                yield int(timesteps[done - 1]), *frame
        samples = ops.convert_to_numpy(x_t)
        yield -1, samples, samples

    def whole(self, sampler, clip_denoised=False):
        """All steps as one function `(noise, seeds, conditions) -> samples`, not compiled."""
        timesteps = sampler.plan(self.diffusion)
        program = self._build(sampler, clip_denoised)

        def sample(noise, seeds, conditions):
            ends = (ops.convert_to_tensor(step, "int32") for step in (0, len(timesteps)))
            tables = self._tables(sampler, timesteps)
            x, _ = program((noise, noise, seeds, conditions, ()), *ends, *tables)
            return x

        return sample

    def _tables(self, sampler, timesteps, rows=0):
        """Timesteps, with -1 for the clean image, and coefficients, filled up to `rows`."""

        def table(values, dtype):
            spare = np.zeros(max(0, rows - len(values)))
            return ops.convert_to_tensor(np.append(values, spare).astype(dtype))

        coefficients = sampler.coefficients(self.diffusion, timesteps)
        return (
            table(np.append(timesteps, -1), "int32"),
            {name: table(values, "float32") for name, values in coefficients.items()},
        )

    def _program(self, sampler, clip_denoised, *shapes):
        sampler = sampler.without_coefficients()
        key = (sampler, clip_denoised, shapes, num_devices())
        if key not in self._programs:
            if len(self._programs) >= MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]  # the oldest
            program = self._build(sampler, clip_denoised)
            self._programs[key] = compile_function(program, self.variables, self.jit_compile)
        return self._programs[key]

    def _build(self, sampler, clip_denoised):
        def program(batch, first, last, timesteps, coefficients):
            self.num_compilations += 1  # runs only while a backend traces
            x, x_start, seeds, conditions, given = split_batch(batch)

            def denoise(x_t, t):
                t = ops.broadcast_to(t, (ops.shape(x_t)[0],))
                output = self.denoiser(x_t, t, *conditions)
                check_output("denoiser", output, x_t.shape)
                start = self.diffusion.predict_start(x_t, t, output, clip_denoised)
                return start, self.diffusion.predict_noise_from_start(x_t, t, start)

            def step(i, x, x_start):
                c = {name: ops.take(values, i) for name, values in coefficients.items()}
                noise = step_noise(seeds, i, x.shape[1:]) if sampler.is_stochastic else None
                t, t_next = ops.take(timesteps, i), ops.take(timesteps, i + 1)
                inputs = StepInputs(t, t_next, x_start, noise, given)
                return i + 1, *sampler.step(denoise, x, c, inputs)

            _, x, x_start = ops.while_loop(lambda i, *_: i < last, step, (first, x, x_start))
            return gather_batch((x, x_start))

        return program
