"""Samplers, and `sample`, which runs one with any denoiser."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import keras
from keras import ops

from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.samplers.base import Sampler, SamplerWithEta, StepInputs, signal_levels
from keras_ddpm.samplers.ddim import DDIM
from keras_ddpm.samplers.ddpm import DDPM
from keras_ddpm.samplers.dpm_solver import DPMSolverPlusPlus
from keras_ddpm.samplers.heun import Heun
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.noise import choose_seed, step_seeds
from keras_ddpm.samplers.spacing import SPACINGS, choose_timesteps
from keras_ddpm.samplers.trajectory import Trajectory, choose_frames, make_trajectory
from keras_ddpm.types import Tensor
from keras_ddpm.validation import check_array, check_choice, check_function, did_you_mean

SAMPLERS = {"ddpm": DDPM, "ddim": DDIM, "dpm_solver++": DPMSolverPlusPlus, "heun": Heun}


def get_sampler(sampler: str | Sampler = "ddim", **options: Any) -> Sampler:
    """The sampler that a user names, or gives.

    `options` are those of a sampler given by name, such as steps, spacing, timesteps and eta. None
    is the sampler's default, and each sampler takes `eta=0`.

    >>> get_sampler("ddim", steps=20) == get_sampler(DDIM(steps=20))
    True
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(sampler, Sampler):
        if options:
            raise TypeError(f"{_words(options)}: give options to {sampler!r} itself.")
        return sampler
    sampler_class = SAMPLERS[check_choice("sampler", sampler, SAMPLERS)]
    known = sorted(field.name for field in fields(sampler_class))
    if "eta" not in known and options.get("eta") == 0:
        del options["eta"]
    if unknown := {name: value for name, value in options.items() if name not in known}:
        hint = did_you_mean(next(iter(unknown)), known)
        raise TypeError(
            f"{_words(unknown)}: the options of sampler={sampler!r} are {', '.join(known)}{hint}"
        )
    return sampler_class(**options)


def sampler_config(sampler: Sampler) -> dict[str, Any]:
    """The arguments of `get_sampler` for a sampler of the package, as JSON can hold them.

    >>> sampler_config(DDIM(steps=20))
    {'sampler': 'ddim', 'steps': 20}
    """
    name = next((name for name, kind in SAMPLERS.items() if kind is type(sampler)), None)
    if name is None:
        raise TypeError(f"sampler={sampler!r} is none of {', '.join(SAMPLERS)}.")
    given = {f.name: getattr(sampler, f.name) for f in fields(sampler)}
    given = {f.name: given[f.name] for f in fields(sampler) if given[f.name] != f.default}
    return {"sampler": name, **given}


def _words(options):
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def sample(
    denoiser: Callable[..., Tensor],
    diffusion: GaussianDiffusion,
    noise: Tensor,
    sampler: str | Sampler = "ddim",
    clip_denoised: bool | float = False,
    seed: int | None = 0,
    return_trajectory: bool | int | Sequence[int] = False,
    **options: Any,
) -> Any:
    """Runs the reverse process of any denoiser, from noise to data.

    Args:
        denoiser: function `(x_t, t) -> prediction` with `x_t` a float32 tensor like `noise` and
            `t` int32 `(batch,)`, or a Keras network called as `network([x_t, t])`. It is compiled
            on TensorFlow and JAX. On JAX the Keras variables of a plain function become constants
            of the program; those of a network do not.
        diffusion: a `GaussianDiffusion`, which says what the prediction is.
        noise: float tensor `(batch, ...)`, x_T.
        clip_denoised: whether to clip each x̂₀ to [-1, 1], see `clip_start`.
        seed: int, for the noise that the steps add; None follows `keras.utils.set_random_seed`.
        sampler, return_trajectory, **options: as for `DiffusionModel.generate`.

    Returns:
        A float32 tensor like `noise`. With `return_trajectory` also a `Trajectory`.

    ```python
    diffusion = GaussianDiffusion(1000)
    noise = keras.random.normal((4, 2))
    exact_noise = lambda x_t, t: diffusion.predict_noise_from_start(x_t, t, ops.zeros_like(x_t))

    x0 = sample(exact_noise, diffusion, noise, steps=50)  # all zeros, as the data
    ```
    """
    sampler = get_sampler(sampler, **options)
    check_function("denoiser", denoiser, "a function (x_t, t) -> prediction")
    noise = check_array("noise", ops.convert_to_numpy(noise), (None, ...)).astype("float32")
    noise = ops.convert_to_tensor(noise)
    sampler = sampler.suited_to(noise.shape[1:])
    timesteps = sampler.plan(diffusion)
    frames = choose_frames("return_trajectory", return_trajectory, len(timesteps))
    request = {
        "seeds": step_seeds(choose_seed(seed), noise.shape[0], len(timesteps)),
        "clip_denoised": check_clip_denoised(clip_denoised),
        "frames": frames,
    }
    pieces = list(_loop(denoiser, diffusion).run(noise, sampler, **request))
    _, x_0, _ = pieces[-1]
    if not frames:
        return x_0
    kept = [frame for _, _, frame in pieces if frame]
    return x_0, make_trajectory(timesteps, frames, kept, ops.convert_to_numpy(x_0))


@functools.lru_cache(maxsize=8)  # keeps the programs of the denoisers used last
def _loop(denoiser, diffusion):
    if not isinstance(denoiser, keras.layers.Layer):
        return SamplingLoop(denoiser, diffusion)

    def call(x_t, t):
        return denoiser([x_t, t], training=False)

    return SamplingLoop(call, diffusion, denoiser.variables)
