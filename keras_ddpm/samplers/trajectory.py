"""What is kept of the reverse process, and at which of its steps."""

from dataclasses import dataclass

import numpy as np
from keras import ops


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
