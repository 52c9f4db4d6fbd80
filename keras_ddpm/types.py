"""Names for what public functions take and return."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Tensor: TypeAlias = Any  # of the backend, or what Keras' operations take for one
PathLike: TypeAlias = str | os.PathLike[str]
ImageSize: TypeAlias = int | tuple[int, int]  # in pixels: of both sides, or (height, width)
Extractor: TypeAlias = Callable[[np.ndarray], ArrayLike]  # images -> features
