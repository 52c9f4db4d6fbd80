"""Names for what public functions take and return."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

Tensor: TypeAlias = Any  # of the backend, or what Keras' operations take for one
PathLike: TypeAlias = str | os.PathLike[str]
ImageSize: TypeAlias = int | tuple[int, int]  # in pixels: of both sides, or (height, width)
Labels: TypeAlias = int | str | Sequence[int | str] | np.ndarray  # by number or by name
Extractor: TypeAlias = Callable[[np.ndarray], ArrayLike]  # images -> features
# One or several: an array, paths of files, or images of Pillow.
Photographs: TypeAlias = ArrayLike | PathLike | Image.Image | Sequence[PathLike | Image.Image]
