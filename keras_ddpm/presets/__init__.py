"""Presets: small folders with a config, averaged weights and a model card, enough for sampling.

The presets that come with the package are the folders beside this file.
"""

import json
import re
from pathlib import Path

import keras
import numpy as np
from keras import ops
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.hub import hub_errors, import_for, is_on_hub, split_name
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_choice, check_instance, check_path, did_you_mean

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT_VERSION = 1
DAMAGE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)  # in a config
STATES = ("data_mean", "updates")


def list_presets() -> list[str]:
    """The names of the presets that come with the package, sorted.

    >>> list_presets()
    ['drawn_flowers_16', 'flowers_32', 'flowers_64_upscaler', 'mnist_28', 'mnist_28_4_steps']
    """
    return sorted(path.parent.name for path in Path(__file__).parent.glob(f"*/{CONFIG}"))


def upload_preset(uri: str, preset: PathLike) -> None:
    """Puts a preset on the Hugging Face Hub, where `from_preset(uri)` finds it.

    It needs `pip install "keras-ddpm[hub]"`, and `hf auth login` once.

    Args:
        uri: `"hf://user/name"`, a repository that is created, for all to see, if there is none; or
            `"hf://user/name@branch"`, a branch that there is.
        preset: a folder that `DiffusionModel.save_to_preset` wrote, or one of `list_presets`.

    Raises a FileNotFoundError without that preset or branch, and a RuntimeError if it fails.

    >>> upload_preset("hf://user/my_flowers", "my_flowers")
    """
    repo_id, revision = split_name("uri", check_instance("uri", uri, str))
    folder = find_preset(preset)
    hub = import_for(uri, "huggingface_hub")
    card = (folder / CARD).read_text()
    card = card.replace(f'from_preset("{folder.resolve().name}")', f'from_preset("{uri}")')
    files = {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS, CARD: card.encode()}
    with hub_errors(uri, "cannot be written (is there a network, and a login?)"):
        hub.create_repo(repo_id, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, data) for name, data in files.items()]
        hub.create_commit(repo_id, operations, commit_message="Upload a preset", revision=revision)


def write_preset(model, folder, description="", dtype="float16", license=""):
    """Writes a preset: see `DiffusionModel.save_to_preset`."""
    check_choice("dtype", dtype, ("float16", "float32"))
    check_path("folder", folder)
    check_instance("description", description, str)
    if not re.fullmatch(r"[\w.-]*", check_instance("license", license, str)):
        raise ValueError(f"license={license!r} must be a name such as 'apache-2.0'.")
    model.check_merged()
    if "://" in str(folder):
        raise ValueError(
            f"folder={str(folder)!r} must be a folder on this machine; `upload_preset` writes it "
            "to the hub afterwards."
        )
    folder = make_writable(folder)
    with np.errstate(over="ignore"):  # infinite numbers are refused below
        weights = {  # safetensors takes C order for granted
            name: ops.convert_to_numpy(weight).astype(dtype, order="C")
            for name, weight in named_weights(model.ema_network).items()
        }
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise ValueError(f"dtype={dtype!r} cannot hold some weights: they are not finite.")
    weights |= {state: ops.convert_to_numpy(getattr(model, state)) for state in STATES}
    config = {"format_version": FORMAT_VERSION, "keras_version": keras.__version__}
    config |= model.get_config()
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in config.items())
    with atomic_write(folder / WEIGHTS) as partial:
        partial.write_bytes(save(weights))
    with atomic_write(folder / CARD) as partial:
        partial.write_text(_card(model, folder.resolve().name, description, dtype, license))
    with atomic_write(folder / CONFIG) as partial:  # last: it says that the preset is complete
        partial.write_text(f"{{\n{lines}\n}}\n")
    return folder


def find_preset(preset):
    """The folder of a preset: a path, the name of one that comes with the package, or of one on the
    hub, which is downloaded into the cache of the hub.
    """
    if is_on_hub(preset):
        return _download(preset)
    folders = [check_path("preset", preset), Path(__file__).parent / preset]
    folder = next((f for f in folders if (f / CONFIG).is_file() and (f / WEIGHTS).is_file()), None)
    if folder is None:
        names = list_presets()
        raise FileNotFoundError(
            f"there is no preset {str(preset)!r}: neither a folder with {CONFIG} and {WEIGHTS}, "
            f"nor one of {names}" + did_you_mean(preset, names)
        )
    return folder


def _download(name):
    repo_id, revision = split_name("preset", name)
    hub = import_for(name, "huggingface_hub")
    files = [CONFIG, WEIGHTS, CARD]
    with hub_errors(name, "is not in the cache and cannot be downloaded (is there a network?)"):
        folder = Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=files))
    if missing := [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]:
        raise FileNotFoundError(f"{name!r} is no preset: it has no {' and no '.join(missing)}.")
    return folder


def read_preset(model_class, preset):
    """Reads a preset: see `DiffusionModel.from_preset`."""
    folder = find_preset(preset)
    shown = repr(str(folder))
    if is_on_hub(preset):
        cached = f"model/{split_name('preset', preset)[0]}"
        shown = f"{preset!r}, which `hf cache rm {cached}` removes from the cache,"
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
        version = config.pop("format_version")
        del config["keras_version"]
    except (*DAMAGE, SafetensorError) as error:
        raise ValueError(f"preset {shown} is damaged: {error!r}") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"preset {shown} has format_version={version}, but this version of the package reads "
            f"{FORMAT_VERSION}."
        )
    try:
        model = model_class.from_config(config)
    except DAMAGE as error:
        raise ValueError(f"{folder / CONFIG} cannot be read: {error}") from error
    states = {state: getattr(model, state) for state in STATES}
    for network in (model.network, model.ema_network):
        variables = {**states, **named_weights(network)}
        if difference := sorted(variables.keys() ^ weights.keys()):
            raise ValueError(
                f"preset {shown} is damaged: {len(difference)} weights are in one of "
                f"{CONFIG} and {WEIGHTS} only, such as {difference[0]!r}."
            )
        for name, variable in variables.items():
            value, kind = weights[name], "i" if name == "updates" else "f"
            with np.errstate(over="ignore"):
                fits = np.isfinite(value.astype("float32")).all() and (kind == "f" or value >= 0)
            if value.dtype.kind != kind or value.shape != tuple(variable.shape) or not fits:
                raise ValueError(
                    f"preset {shown} is damaged: {name!r} of shape {value.shape} and dtype "
                    f"{value.dtype} must be finite {'ints' if kind == 'i' else 'floats'} of shape "
                    f"{tuple(variable.shape)}."
                )
            variable.assign(value)
    return model


def named_weights(network):
    """A network's variables by name; the name is the same in every process and backend."""
    variables = {weight.path: weight for weight in network.weights}
    if len(variables) < len(network.weights):
        raise ValueError(
            f"{len(network.weights)} weights of {network.name!r} share {len(variables)} names. "
            "Give its layers names of their own."
        )
    return variables


def _card(model, name, description, dtype, license):
    """A short README: what the hub reads, facts that the files hold, and what the maker says."""
    about = "library_name: keras_ddpm\ntags:\n- diffusion\n- keras_ddpm"
    about += "\npipeline_tag: unconditional-image-generation" if model.is_image else ""
    about += f"\nlicense: {license}" if license else ""
    diffusion, classes, request = model.diffusion, "none", "16"
    condition = model.conditioning or model.condition_shape or "none"
    if model.num_classes is not None:
        classes, request = str(model.num_classes), f"labels=range({min(16, model.num_classes)})"
    if model.class_names:
        classes += ": " + ", ".join(model.class_names)
    if model.conditioning:
        condition = f"{condition}, which {model.conditioning.use}"
    if model.condition_shape:
        request += ", condition=condition"
    if model.sampler is None:  # else it keeps the one that it was made for
        request += ', sampler="dpm_solver++", steps=20'
    return f"""---
{about}
---

# {name}

{description.strip()}

- samples: {"x".join(map(str, model.sample_shape))}
- parameters: {model.network.count_params():,}, averaged weights in {dtype}
- diffusion: {diffusion.timesteps} {diffusion.schedule} steps, predicts {diffusion.prediction}
- classes: {classes}
- condition: {condition}

```python
model = DiffusionModel.from_preset("{name}")
images = model.generate({request}, seed=0)
```
"""
