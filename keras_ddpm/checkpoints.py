"""Saved models: finding the latest of a run, and reading one with clear errors."""

import json
import re
import zipfile
from pathlib import Path

import keras

from keras_ddpm.model import DiffusionModel
from keras_ddpm.precision import model_in

CHECKPOINT_NAME = "epoch_{:04d}.keras"
_CHECKPOINT_PATTERN = re.compile(r"epoch_(\d{4,})\.keras")


def list_checkpoints(directory):
    """The complete checkpoints in a folder, oldest first; partial files are not among them.

    Args:
        directory: a path, which need not exist.

    Returns:
        A list of pairs `(path, epochs_done)`.
    """
    found = []
    for path in Path(directory).glob("*.keras"):
        if match := _CHECKPOINT_PATTERN.fullmatch(path.name):
            found.append((path, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint[1])


def latest_checkpoint(directory):
    """The checkpoint to resume from.

    Args:
        directory: the folder that `Checkpoint` writes to; it need not exist.

    Returns:
        `(path, epochs_done)`, or None if there is no complete checkpoint.

    Example:

    ```python
    path, epochs_done = latest_checkpoint("runs/a/checkpoints")
    model = keras.saving.load_model(path)
    model.fit(dataset, epochs=100, initial_epoch=epochs_done)
    ```
    """
    return (list_checkpoints(directory) or [None])[-1]


def load_diffusion_model(path):
    """Reads a `DiffusionModel`, and says clearly why if it cannot.

    Args:
        path: a `.keras` file that `DiffusionModel.save` wrote, on any backend.

    Returns:
        The compiled `DiffusionModel`, with its optimizer and random states.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is incomplete, or holds something else.

    Example:

    >>> model = load_diffusion_model("runs/a/final.keras")
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    # A zip file's directory is at its end, so a truncated one is no zip file.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{str(path)!r} is truncated, or no .keras file at all.")
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise ValueError(f"{str(path)!r} is a zip file, but not one that Keras wrote.")
        if broken := archive.testzip():
            raise ValueError(f"{str(path)!r} is damaged: {broken} does not match its checksum.")
        class_name = json.loads(archive.read("config.json")).get("class_name")
    if class_name != DiffusionModel.__name__:
        raise ValueError(
            f"{str(path)!r} holds a {class_name}, not a DiffusionModel. Give a file that "
            "`DiffusionModel.save` wrote."
        )
    return keras.saving.load_model(path)


def open_model(source, dtype_policy=None):
    """Reads a model from whatever it was saved as.

    Args:
        source: a `.keras` file, or a preset: its name or its folder.
        dtype_policy: optional, as for `keras_ddpm.precision.model_in`; None leaves it as it was
            saved.

    Returns:
        A `DiffusionModel`.

    Raises:
        FileNotFoundError: if there is none of these.
        ValueError: if it is damaged, or holds something else, or for an unknown policy.

    Example:

    >>> model = open_model("drawn_flowers_16")
    """
    if str(source).endswith(".keras") or Path(source).is_file():
        model = load_diffusion_model(source)
    else:
        model = DiffusionModel.from_preset(source)
    return model if dtype_policy is None else model_in(model, dtype_policy)
