"""Models read from files and presets, with clear errors."""

from __future__ import annotations

import zipfile

import keras

from keras_ddpm.files import is_damaged
from keras_ddpm.hub import is_on_hub
from keras_ddpm.model.model import DiffusionModel
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_path


def load_diffusion_model(source: PathLike, dtype_policy: str | None = None) -> DiffusionModel:
    """The `DiffusionModel` of a file or a preset; that of a file is compiled if it was when saved.

    Args:
        source: a `.keras` file that `DiffusionModel.save` wrote on any backend, or a preset: its
            name, its folder, or `hf://user/name`.
        dtype_policy: optional, see `DiffusionModel.with_dtype_policy`.

    Raises a FileNotFoundError, or a ValueError if it is damaged or holds something else.

    >>> load_diffusion_model("drawn_flowers_16").num_classes
    24
    """
    path = check_path("source", source)
    if not is_on_hub(source) and (path.suffix == ".keras" or path.is_file()):
        model = _load_file(path)
    else:
        model = DiffusionModel.from_preset(source)
    return model if dtype_policy is None else model.with_dtype_policy(dtype_policy)


def _load_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    if is_damaged(path):
        raise ValueError(f"{str(path)!r} is damaged, truncated, or no .keras file at all.")
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise ValueError(f"{str(path)!r} is a zip file, but not one that Keras wrote.")
    try:
        model = keras.saving.load_model(path)
    except MemoryError:
        raise
    except Exception as error:  # of Keras, of HDF5, or of the code of a custom class
        message = f"{str(path)!r} cannot be loaded: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"{str(path)!r} holds a {type(model).__name__}, not a DiffusionModel.")
    return model
