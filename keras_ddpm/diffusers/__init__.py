"""Folders of Hugging Face diffusers, read and written without torch and without diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from safetensors.numpy import save

from keras_ddpm.diffusers import scheduler, unet
from keras_ddpm.diffusers.files import WEIGHTS, WEIGHTS_INDEX, read_json, read_tensors
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.model import DiffusionModel
from keras_ddpm.types import ImageSize, PathLike
from keras_ddpm.unet import UNet
from keras_ddpm.validation import check_instance, check_path

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"


class Converted(NamedTuple):
    """What `from_diffusers` reads."""

    network: UNet
    diffusion: GaussianDiffusion
    sampling: dict[str, Any]  # options of `generate` that the folder asks for, such as spacing


def from_diffusers(folder: PathLike, image_size: ImageSize | None = None) -> Converted:
    """Reads a model of Hugging Face diffusers, such as google/ddpm-cifar10-32.

    Args:
        folder: a path. Either that of a pipeline, with folders `unet` and `scheduler`, or with
            the files of both side by side, as the older google/ddpm-* have them. Weights are
            safetensors: one file, or several with an index, or those of a variant such as fp16.
        image_size: optional int or (height, width), instead of the config's `sample_size`.

    Raises:
        FileNotFoundError: if the folder, or a file in it, is missing.
        ValueError: if the package has no such pipeline, network or scheduler, naming the setting;
            if tensors do not fit; if a file is damaged; or if the weights are a pickle.

    ```python
    network, diffusion, sampling = from_diffusers("ddpm-cifar10-32")
    model = DiffusionModel(network, diffusion)
    images = model.generate(16, sampler="ddim", steps=50, **sampling)
    ```
    """
    folder = check_path("folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}.")
    has_index = (folder / INDEX).is_file()
    index = read_json(folder / INDEX) if has_index else {}
    kind = index.get("_class_name")
    if has_index and kind not in PIPELINES:
        raise ValueError(f"{folder / INDEX} is of a {kind}, not of {' or '.join(PIPELINES)}.")
    is_flat = not (folder / "unet").is_dir()
    unet_folder, scheduler_folder = (
        folder if is_flat else folder / part for part in ("unet", "scheduler")
    )
    config = read_json(unet_folder / CONFIG)
    kind = config.get("_class_name", _class_of("unet", index) or "UNet2DModel")
    if kind != "UNet2DModel":
        raise ValueError(f"{unet_folder / CONFIG} is of a {kind}, not of a UNet2DModel.")
    settings = read_json(scheduler_folder / SCHEDULER)
    named = _class_of("scheduler", index)
    if named is not None:
        settings.setdefault("_class_name", named)
    diffusion, sampling = scheduler.diffusion_from_config(settings)
    if named not in (None, settings.get("_class_name")):
        raise ValueError(f"{folder / INDEX} names a {named}, but {SCHEDULER} another class.")
    tensors = unet.with_current_names(read_tensors(unet_folder))
    network = unet.network_from_config(config, image_size)
    _assign(network, tensors)
    return Converted(network, diffusion, sampling)


def to_diffusers(model: DiffusionModel, folder: PathLike) -> Path:
    """Writes a folder that `DDPMPipeline.from_pretrained` of Hugging Face diffusers runs.

    It holds the averaged network, bit for bit. The pipeline has no labels: load the folder's
    `unet` as a `UNet2DModel` and give it `class_labels`; the last number means "no label".

    `model` is a `DiffusionModel` with a `UNet`; a ValueError says what diffusers does not have.
    Returns the folder, a `pathlib.Path`, which is created.

    ```python
    to_diffusers(model, "flowers")
    # elsewhere: diffusers.DDPMPipeline.from_pretrained("flowers")(batch_size=4)
    ```
    """
    network = check_instance("model", model, DiffusionModel).ema_network
    model.check_merged()
    check_path("folder", folder)
    configs = {
        f"unet/{CONFIG}": unet.config_of(network),
        f"scheduler/{SCHEDULER}": scheduler.config_of(model.diffusion),
        INDEX: {  # last: it says that the folder is complete
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
    }
    tensors = {
        name: unet.to_theirs(ops.convert_to_numpy(variable), variable)
        for name, variable in unet.named_variables(network).items()
    }
    folder = make_writable(folder)
    for part in ("unet", "scheduler"):
        make_writable(folder / part)
    with atomic_write(folder / "unet" / WEIGHTS) as partial:
        partial.write_bytes(save(tensors, metadata={"format": "pt"}))
    # The index of a model that was there in several files would be read first.
    (folder / "unet" / WEIGHTS_INDEX).unlink(missing_ok=True)
    for name, config in configs.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _class_of(part, index):
    """What a pipeline calls the class of a part, `["diffusers", "DDPMScheduler"]`, or None."""
    named = index.get(part)
    return named[1] if isinstance(named, list) and len(named) == 2 else None


def _assign(network, tensors):
    variables = unet.named_variables(network)
    for one, other, what in ((variables, tensors, "missing"), (tensors, variables, "unknown")):
        if names := sorted(one.keys() - other.keys()):
            raise ValueError(f"{len(names)} tensors are {what}, such as {names[0]!r}.")
    for name, variable in variables.items():
        array = tensors[name]
        if array.dtype.kind in "biu":
            raise ValueError(f"{name!r} has dtype {array.dtype}, but must hold floats.")
        expected = unet.to_theirs(np.empty(variable.shape), variable).shape
        if array.shape != expected:
            raise ValueError(f"{name!r} has shape {array.shape}, but the config says {expected}.")
        variable.assign(unet.to_ours(array.astype("float32"), variable))
