"""Samplers by name, and `sample`, which runs one from any denoiser."""

import functools

import keras
from keras import ops

from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.samplers.base import Moment, Sampler, SamplerWithEta
from keras_ddpm.samplers.ddim import DDIM
from keras_ddpm.samplers.ddpm import DDPM
from keras_ddpm.samplers.dpm_solver import DPMSolverPlusPlus
from keras_ddpm.samplers.heun import Heun
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.seeds import step_seeds
from keras_ddpm.samplers.spacing import SPACINGS, check_timesteps, choose_timesteps
from keras_ddpm.samplers.trajectory import Trajectory, choose_frames, make_trajectory
from keras_ddpm.validation import check_choice

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolverPlusPlus",
    "Heun",
    "Moment",
    "SAMPLERS",
    "SPACINGS",
    "Sampler",
    "SamplerWithEta",
    "Trajectory",
    "sample",
]

SAMPLERS = {"ddpm": DDPM, "ddim": DDIM, "dpm_solver++": DPMSolverPlusPlus, "heun": Heun}


def sample(
    denoiser,
    diffusion,
    noise,
    sampler="ddim",
    steps=None,
    timesteps=None,
    spacing=None,
    eta=0.0,
    clip_denoised=False,
    seed=0,
    return_trajectory=False,
):
    """Runs the reverse process of any denoiser, from noise to data.

    Args:
        denoiser: function `(x_t, t) -> prediction` with `x_t` a float32 tensor like `noise` and
            `t` int32 `(batch,)`, or a Keras network called as `network([x_t, t])`. It is compiled
            on TensorFlow and JAX. On JAX a plain function's Keras variables are frozen into the
            program; a network's are not.
        diffusion: a `GaussianDiffusion`, which says what the prediction is.
        noise: float tensor `(batch, ...)`, x_T.
        sampler: `"ddim"`, `"dpm_solver++"`, `"heun"`, `"ddpm"`, or a `Sampler`.
        steps: int in [1, diffusion.timesteps]; None means at most 50.
        timesteps: optional descending ints, which override `steps` and `spacing`. After the
            last one comes the clean data.
        spacing: which timesteps `steps` picks, one of `SPACINGS`; None is the sampler's own.
        eta: float >= 0, fresh noise in DDIM and DPM-Solver++: 0 is deterministic, 1 like DDPM.
        clip_denoised: whether to clip each x̂₀ to [-1, 1]; a float in (0, 1), such as 0.995, is
            dynamic thresholding at that percentile, see `clip_start`. Points have no such range.
        seed: int, for the noise that the steps add.
        return_trajectory: True for every step, an int for so many evenly spaced ones, or a list
            of step numbers.

    Returns:
        A float32 tensor like `noise`. With `return_trajectory` also a `Trajectory`.

    Example:

    ```python
    exact_noise = lambda x_t, t: diffusion.predict_noise_from_start(x_t, t, ops.zeros_like(x_t))

    x0 = sample(exact_noise, diffusion, noise, steps=50)  # all zeros, as the data
    ```
    """
    sampler = make_sampler(sampler, eta)
    timesteps = plan_timesteps(diffusion, sampler, steps, timesteps, spacing)
    check_clip_denoised(clip_denoised)
    noise = ops.cast(ops.convert_to_tensor(noise), "float32")
    seeds = step_seeds(seed, noise.shape[0], len(timesteps))
    frames = choose_frames(return_trajectory, len(timesteps))
    x, kept = _loop(denoiser, diffusion)(
        noise, sampler, timesteps, seeds, clip_denoised, frames=frames
    )
    return (x, make_trajectory(timesteps, frames, kept, x)) if frames else x


def make_sampler(sampler, eta=0.0):
    """A `Sampler` from its name; the same options give the same object, compiled once."""
    if isinstance(sampler, Sampler):
        return sampler
    check_choice("sampler", sampler, SAMPLERS)
    if eta != 0 and not _takes_eta(sampler):
        choices = " or ".join(repr(name) for name in SAMPLERS if _takes_eta(name))
        raise ValueError(f"eta={eta} belongs to sampler={choices}, not to sampler={sampler!r}.")
    return _named_sampler(sampler, eta)


def plan_timesteps(diffusion, sampler, steps=None, timesteps=None, spacing=None):
    """The explicit list if there is one, else `steps` timesteps in the sampler's spacing."""
    if timesteps is not None:
        timesteps = check_timesteps(timesteps, diffusion)
    else:
        spacing = sampler.spacing if spacing is None else spacing
        timesteps = choose_timesteps(diffusion, steps, spacing)
    sampler.coefficients(diffusion, timesteps)  # complains if it cannot follow them
    return timesteps


@functools.lru_cache(maxsize=32)
def _named_sampler(name, eta):
    return SAMPLERS[name](eta) if _takes_eta(name) else SAMPLERS[name]()


def _takes_eta(name):
    return issubclass(SAMPLERS[name], SamplerWithEta)


@functools.lru_cache(maxsize=8)  # keeps the programs of the denoisers used last
def _loop(denoiser, diffusion):
    if isinstance(denoiser, keras.layers.Layer):
        call = functools.partial(_call_network, denoiser)
        return SamplingLoop(call, diffusion, denoiser.variables)
    return SamplingLoop(denoiser, diffusion)


def _call_network(network, x_t, t):
    return network([x_t, t], training=False)
