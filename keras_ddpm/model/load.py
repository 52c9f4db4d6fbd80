"""Models read from files and presets, with clear errors."""

import zipfile
from pathlib import Path

import keras

from keras_ddpm.model.model import DiffusionModel


def load_diffusion_model(source, dtype_policy=None):
    """The `DiffusionModel` of a file or a preset; that of a file is compiled if it was when saved.

    Args:
        source: a `.keras` file that `DiffusionModel.save` wrote on any backend, or a preset: its
            name or its folder.
        dtype_policy: optional, see `DiffusionModel.with_dtype_policy`.

    Raises a FileNotFoundError, or a ValueError if it is damaged or holds something else.

    >>> load_diffusion_model("drawn_flowers_16").num_classes
    24
    """
    if str(source).endswith(".keras") or Path(source).is_file():
        model = _load_file(Path(source))
    else:
        model = DiffusionModel.from_preset(source)
    return model if dtype_policy is None else model.with_dtype_policy(dtype_policy)


def _load_file(path):
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
    model = keras.saving.load_model(path)
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"{str(path)!r} holds a {type(model).__name__}, not a DiffusionModel.")
    return model
