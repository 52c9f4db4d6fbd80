"""The JSON and safetensors files of a folder of diffusers."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"  # of weights in several files: which tensor is in which


def read_json(path):
    """The dict in a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}.")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds {str(found)[:40]}, not an object of keys.")
    return found


def read_tensors(folder):
    """A dict of NumPy arrays, from one file of weights, or several with an index.

    If there are only weights of a variant, such as diffusion_pytorch_model.fp16.safetensors, they
    are read.
    """
    path = _find_weights(folder)
    if path.suffix != ".json":
        return _read_file(path)
    places = read_json(path).get("weight_map")
    if not places or not isinstance(places, dict):
        raise ValueError(f"{path} is damaged: its weight_map names no tensors.")
    for name in places.values():
        if not (
            isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")
        ):
            raise ValueError(f"{path} is damaged: {name!r} is no name of a safetensors file.")
    parts = {name: _read_file(folder / name) for name in sorted(set(places.values()))}
    for tensor, name in places.items():
        if tensor not in parts[name]:
            raise ValueError(f"{folder / name} is without {tensor!r}, which {path} says is in it.")
    return {tensor: parts[name][tensor] for tensor, name in places.items()}


def _find_weights(folder):
    """The path of an index or of a file of weights: the one without a variant if there is one."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for name in (WEIGHTS_INDEX, WEIGHTS):  # in the order in which diffusers looks for them
        if name in names:
            return folder / name
    patterns = f"{STEM}.*.safetensors", f"{WEIGHTS}.index.*.json"
    variants = [
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in patterns) and "-of-" not in name
    ]  # a file of several is called diffusion_pytorch_model-00001-of-00002.safetensors
    if len(variants) == 1:
        return folder / variants[0]
    if variants:
        raise ValueError(
            f"{folder} has weights of {len(variants)} variants: {', '.join(variants)}. Rename the "
            f"one to read to {WEIGHTS}."
        )
    for name in names:
        if fnmatchcase(name, f"{STEM}*.bin"):
            raise ValueError(
                f"{folder / name} is a pickle, which may run any code when it is read. Convert "
                "it where diffusers is installed and the file is trusted: UNet2DModel."
                f"from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
    raise FileNotFoundError(f"there is no {folder / WEIGHTS}; the folder has {names[:20]}.")


def _read_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}.")
    try:
        return load_file(path)
    except (SafetensorError, TypeError) as error:  # TypeError: numbers that NumPy does not have
        raise ValueError(f"{path} is damaged, or has numbers of another kind: {error}") from error
