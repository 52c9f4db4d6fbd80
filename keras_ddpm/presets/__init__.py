"""Trained models as small folders: how to build the model, its averaged weights, a model card.

A preset holds what sampling needs and nothing else: no optimizer, no second copy of the weights,
no random states. To go on with a training, use `DiffusionModel.save`. Those that come with the
package are the folders beside this file.
"""

import json
from pathlib import Path

import numpy as np
from keras import ops
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from keras_ddpm.files import make_writable, written_aside
from keras_ddpm.validation import check_choice, nearest

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
DTYPES = ("float16", "float32")
_DATA_MEAN = "data_mean"


def list_presets():
    """The names of the presets that come with the package, sorted."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob(f"*/{CONFIG}"))


def find_preset(preset):
    """The folder of a preset.

    Args:
        preset: the name of one that comes with the package, or the path of a folder.

    Raises:
        FileNotFoundError: if there is none, naming those that there are.
    """
    for folder in (Path(preset), Path(__file__).parent / preset):
        if (folder / CONFIG).is_file():
            return folder
    names = list_presets()
    raise FileNotFoundError(
        f"there is no preset {str(preset)!r}: neither a folder with a {CONFIG}, nor one of {names}"
        + nearest(preset, names)
    )


def read_preset(preset):
    """What a preset holds.

    Args:
        preset: as for `find_preset`.

    Returns:
        The config of a `DiffusionModel`, and a dict from weight names to arrays.

    Raises:
        FileNotFoundError: if there is no such preset, or it lacks its weights.
        ValueError: if a file is damaged.
    """
    folder = find_preset(preset)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"preset {str(folder)!r} has no {WEIGHTS}.")
    try:
        return json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"preset {str(folder)!r} is damaged: {error}") from error


def write_preset(model, folder, description="", dtype="float16"):
    """Writes a preset: see `DiffusionModel.save_to_preset`."""
    check_choice("dtype", dtype, DTYPES)
    folder = make_writable(folder)
    with np.errstate(over="ignore"):  # infinite numbers are refused below
        weights = {  # in the order that safetensors takes for granted
            name: ops.convert_to_numpy(weight).astype(dtype, order="C")
            for name, weight in named_weights(model.ema_network).items()
        }
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise ValueError(f"some weights are not finite in {dtype}.")
    weights[_DATA_MEAN] = ops.convert_to_numpy(model.data_mean)
    with written_aside(folder / WEIGHTS) as partial:
        partial.write_bytes(save(weights))
    with written_aside(folder / CARD) as partial:
        partial.write_text(_card(model, folder.resolve().name, description, dtype))
    with written_aside(folder / CONFIG) as partial:  # last: it says the preset is whole
        partial.write_text(json.dumps(model.get_config()) + "\n")
    return folder


def assign_weights(model, weights):
    """Gives both networks of a model the weights that `read_preset` read."""
    weights = dict(weights)
    data_mean = weights.pop(_DATA_MEAN, None)
    for network in (model.network, model.ema_network):
        variables = named_weights(network)
        if variables.keys() != weights.keys():
            difference = sorted(variables.keys() ^ weights.keys())
            raise ValueError(
                f"the preset's weights are not those of its network: {len(difference)} names are "
                f"in one of them only, such as {difference[0]!r}."
            )
        for name, variable in variables.items():
            variable.assign(weights[name].astype("float32"))
    model.data_mean.assign(data_mean)


def named_weights(network):
    """A network's variables by name; the name is the same in every process and backend."""
    variables = {weight.path: weight for weight in network.weights}
    if len(variables) < len(network.weights):
        raise ValueError(
            f"{len(network.weights)} weights of {network.name!r} share {len(variables)} names. "
            "Give its layers names of their own."
        )
    return variables


def _card(model, name, description, dtype):
    """A short README: facts that the files hold, and what its maker says."""
    diffusion = model.diffusion
    size = "x".join(map(str, model.sample_shape))
    classes = "none" if model.num_classes is None else str(model.num_classes)
    if model.label_names:
        classes += ": " + ", ".join(model.label_names)
    asked = "16" if model.num_classes is None else f"labels=range({min(16, model.num_classes)})"
    lines = [
        f"# {name}",
        "",
        *([description.strip(), ""] if description else []),
        f"- samples: {size}",
        f"- parameters: {model.network.count_params():,}, averaged weights in {dtype}",
        f"- diffusion: {diffusion.timesteps} {diffusion.schedule} steps, predicts "
        f"{diffusion.prediction}",
        f"- classes: {classes}",
        "",
        "```python",
        f'model = DiffusionModel.from_preset("{name}")',
        f'images = model.generate({asked}, sampler="dpm_solver++", steps=20, seed=0)',
        "```",
    ]
    return "\n".join(lines) + "\n"
