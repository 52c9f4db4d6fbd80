"""The states of the reverse process that a user asked to keep."""

import numbers
from dataclasses import dataclass

import numpy as np

from keras_ddpm.validation import check_int, to_array


@dataclass
class Trajectory:
    """States of the reverse process."""

    timesteps: np.ndarray  # int `(frames,)`, descending; the last is -1, the finished image
    x_t: np.ndarray  # float32 `(frames, batch, ...)`, the noisy state
    x_start: np.ndarray  # float32 `(frames, batch, ...)`, x̂₀ as predicted from that state


def make_trajectory(timesteps, frames, kept, samples):
    """A `Trajectory` from the pairs (x_t, x̂₀) of some steps, and the samples."""
    x_t, x_start = (np.stack([frame[part] for frame in kept] + [samples]) for part in (0, 1))
    return Trajectory(np.append(timesteps[list(frames)], -1), x_t, x_start)


def choose_frames(argument, frames, steps):
    """The numbers of the steps to keep: all (True), so many evenly spaced ones, or as listed."""
    if isinstance(frames, bool | np.bool_):
        return tuple(range(steps)) if frames else ()
    if isinstance(frames, numbers.Integral):
        count = min(check_int(argument, frames), steps)
        return tuple(np.unique(np.linspace(0, steps - 1, count).round().astype(int)).tolist())
    chosen = to_array(argument, frames)
    is_list = chosen.ndim == 1 and chosen.size > 0 and chosen.dtype.kind in "iu"
    chosen = np.unique(chosen) if is_list else []
    if not is_list or not 0 <= chosen[0] <= chosen[-1] < steps:
        raise ValueError(
            f"{argument}={frames!r} must be True, False, an int, or a list of step numbers from 0 "
            f"to {steps - 1}."
        )
    return tuple(chosen.tolist())
