"""Images and training curves as files: PNG and GIF."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from keras_ddpm.files import atomic_write
from keras_ddpm.pixels import to_uint8
from keras_ddpm.samplers.trajectory import Trajectory
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_instance, check_int, check_path

WHITE = 255
DURATIONS_MS = 10, 655_350  # what a GIF can hold
MIN_WIDTH = 512  # pixels of a picture that somebody will look at


def image_grid(images: ArrayLike, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Many images in one, row by row on white.

    Args:
        images: `(n, height, width, channels)`, uint8 or float in [-1, 1].
        columns: optional int, images a row; None makes the grid about square.
        padding: int, pixels around each image.

    Returns:
        uint8 array `(grid_height, grid_width, channels)`.

    >>> image_grid(np.zeros((6, 32, 32, 3)), columns=3, padding=0).shape
    (64, 96, 3)
    """
    images = to_uint8(images)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (n, height, width, channels), got shape {images.shape}.")
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else check_int("columns", columns)
    columns = min(columns, count)
    check_int("padding", padding, minimum=0)
    rows = math.ceil(count / columns)
    # Rows of cells, each an image with white above it and to its left.
    margins = ((0, rows * columns - count), (padding, 0), (padding, 0), (0, 0))
    cells = np.pad(images, margins, constant_values=WHITE)
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = cells.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(grid, ((0, padding), (0, padding), (0, 0)), constant_values=WHITE)


def filmstrip(
    trajectory: Trajectory, num_images: int = 4, num_frames: int = 10, padding: int = 2
) -> np.ndarray:
    """The reverse process from left to right: for each image x_t, and x̂₀ below it.

    Args:
        trajectory: the `Trajectory` of `DiffusionModel.generate(..., return_trajectory=...)`.
        num_images: int, how many of its images to show, from the first on.
        num_frames: int, at most how many of its states, evenly spaced; the last is the result.
        padding: int, pixels around each image.

    Returns:
        uint8 array `(height, width, channels)`, two rows for each image.

    >>> images, trajectory = model.generate(4, steps=5, seed=0, return_trajectory=5)
    >>> save_image("filmstrip.png", filmstrip(trajectory))
    """
    check_instance("trajectory", trajectory, Trajectory)
    check_int("num_images", num_images)
    total = len(trajectory.x_t)
    count = min(check_int("num_frames", num_frames), total)
    frames = np.linspace(total - 1, 0, count).round().astype(int)[::-1]
    # (frames, images, ...) twice -> image after image, its x_t in a row and its x̂₀ below.
    rows = np.stack([trajectory.x_t[frames, :num_images], trajectory.x_start[frames, :num_images]])
    cells = np.moveaxis(rows, (2, 0, 1), (0, 1, 2))
    return image_grid(cells.reshape(-1, *cells.shape[3:]), columns=len(frames), padding=padding)


def visible_scale(image):
    """How often to repeat each pixel of an image `(height, width, ...)`, so that it is at least 512
    pixels wide.

    >>> visible_scale(np.zeros((34, 70, 3)))
    8
    """
    return math.ceil(MIN_WIDTH / image.shape[1])


def to_pillow(image, scale=1, argument="image"):
    """An image `(height, width, 1 or 3)`, uint8 or float in [-1, 1], as a `PIL.Image.Image`, with
    each pixel repeated `scale` times in both directions. Errors call it `argument`.
    """
    check_int("scale", scale)
    image = to_uint8(image, argument)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            f"{argument} has shape {image.shape}, but must be (height, width, 1 or 3)."
        )
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def save_image(path: PathLike, image: ArrayLike, scale: int = 1) -> None:
    """Writes one image `(height, width, 1 or 3)`, uint8 or float in [-1, 1].

    The suffix of `path` names the format, and its folder must exist. Each pixel is repeated `scale`
    times in both directions.

    >>> save_image("grid.png", image_grid(model.generate(16, steps=5)))
    """
    picture = to_pillow(image, scale)
    with atomic_write(_check_path(path)) as partial:
        picture.save(partial)


def save_gif(
    path: PathLike,
    frames: Iterable[ArrayLike],
    duration_ms: int | Sequence[int] = 100,
    scale: int = 1,
) -> None:
    """Writes an animation that repeats for ever.

    Args:
        path, scale: as for `save_image`.
        frames: images of one shape `(height, width, channels)`, uint8 or float in [-1, 1].
        duration_ms: how long a frame is shown: an int in [10, 655350], or a list with one int for
            each frame. A GIF holds tens of milliseconds.

    >>> images, trajectory = model.generate(4, steps=5, return_trajectory=True)
    >>> save_gif("process.gif", [image_grid(x) for x in trajectory.x_start], 80)
    """
    if not hasattr(frames, "__iter__"):
        raise TypeError(f"frames={frames!r} must be images.")
    pictures = [to_pillow(frame, scale, f"frames[{i}]") for i, frame in enumerate(frames)]
    if not pictures:
        raise ValueError("frames=[] makes no animation: give at least one image.")
    if len({(picture.size, picture.mode) for picture in pictures}) > 1:
        raise ValueError("frames hold images of different shapes.")
    durations = duration_ms if isinstance(duration_ms, list | tuple | np.ndarray) else [duration_ms]
    for duration in durations:
        check_int("duration_ms", duration, *DURATIONS_MS)
    if durations is duration_ms and len(durations) != len(pictures):
        raise ValueError(f"duration_ms has {len(durations)} entries for {len(pictures)} frames.")
    options = {"append_images": pictures[1:], "duration": duration_ms, "loop": 0}
    with atomic_write(_check_path(path)) as partial:
        pictures[0].save(partial, save_all=True, **options)


def plot_history(csv_path: PathLike, png_path: PathLike) -> None:
    """Draws a log of `CSVLog`: the losses, and if the log has the columns of
    `SampleImages`, the channel means of the samples (solid) and of the training data (dotted).
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    with open(check_path("csv_path", csv_path), newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "epoch" not in rows[0]:
        raise ValueError(f"{csv_path} has no rows with an epoch: no epoch was finished.")
    columns = {name: np.array([_to_float(row[name]) for row in rows]) for name in rows[0]}
    prefix = "sample_mean_"
    means = [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
    figure = Figure(figsize=(10, 4) if means else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if means else 1, squeeze=False)[0]
    epochs = columns["epoch"] + 1

    losses = [columns[name] for name in ("loss", "val_loss") if name in columns]
    losses = [loss for loss in losses if np.isfinite(loss).any()]
    if not losses:
        raise ValueError(f"{csv_path} has no column with a finite loss.")
    for name, loss in zip(("loss", "val_loss"), losses):
        axes[0].plot(epochs, loss, marker="." if len(epochs) < 30 else None, label=name)
    smallest, largest = np.nanmin(losses), np.nanmax(losses)
    if 0 < 3 * smallest < largest:  # a falling loss spans decades; a flat one needs no log
        axes[0].set_yscale("log")
    axes[0].set(title="Loss", ylabel="loss")
    for i, name in enumerate(means):
        colour = name if name in ("red", "green", "blue") else f"C{i}"
        drawn = columns[f"sample_mean_{name}"]
        has_samples = np.isfinite(drawn)  # not every epoch draws samples
        style = {"color": colour, "marker": ".", "label": f"samples, {name}"}
        axes[1].plot(epochs[has_samples], drawn[has_samples], **style)
        data = columns[f"data_mean_{name}"][has_samples]
        axes[1].plot(epochs[has_samples], data, color=colour, linestyle=":")
    if means:
        axes[1].set(title="Channel means (dotted: data)", ylabel="mean in [-1, 1]")
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        ax.grid(alpha=0.3)
        # Below, where it covers no curve.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    with atomic_write(png_path) as partial:
        figure.savefig(partial, dpi=120)


def _check_path(path):
    """A path for a picture, if Pillow knows its format and its folder exists."""
    path = check_path("path", path)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"path={str(path)!r} must end in a format of Pillow, such as '.png'.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is in a folder that does not exist.")
    return path


def _to_float(text):
    try:
        return float(text)
    except (TypeError, ValueError):  # what was not measured is empty
        return math.nan
