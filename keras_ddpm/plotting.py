"""Images and training curves as files: PNG, GIF and nothing interactive."""

import csv
import math

import numpy as np
from PIL import Image

from keras_ddpm.files import written_aside

WHITE = 255


def to_uint8(images):
    """Images as bytes.

    Args:
        images: uint8, which stay as they are, or floats in [-1, 1]; what lies outside is clipped.

    Returns:
        uint8 array of the same shape.

    Raises:
        TypeError: for any other dtype.
        ValueError: for NaN or infinite values.

    Example:

    >>> to_uint8(np.float32([-1.0, 0.0, 1.0, 3.0]))
    array([  0, 128, 255, 255], dtype=uint8)
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"images must be uint8, or float in [-1, 1], got dtype {images.dtype}.")
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values.")
    return np.round((np.clip(images.astype("float32"), -1, 1) + 1) * 127.5).astype("uint8")


def image_grid(images, columns=None, padding=2):
    """Many images as one, row by row, on white.

    Args:
        images: `(n, height, width, channels)`, uint8 or float in [-1, 1].
        columns: optional int, images a row; None makes the grid about square.
        padding: int, pixels around each image.

    Returns:
        uint8 array `(grid_height, grid_width, channels)`.

    Raises:
        ValueError: if `images` is not a batch of images, or a number is too small.

    Example:

    >>> image_grid(np.zeros((6, 32, 32, 3)), columns=3, padding=0).shape
    (64, 96, 3)
    """
    images = to_uint8(images)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (n, height, width, channels), got shape {images.shape}.")
    if padding < 0 or (columns is not None and columns < 1):
        raise ValueError(f"columns={columns} must be at least 1 and padding={padding} at least 0.")
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + padding, width + padding
    grid = np.full(
        (rows * cell_height + padding, columns * cell_width + padding, channels), WHITE, "uint8"
    )
    for i, image in enumerate(images):
        top = i // columns * cell_height + padding
        left = i % columns * cell_width + padding
        grid[top : top + height, left : left + width] = image
    return grid


def filmstrip(trajectory, num_images=4, num_frames=10, padding=2):
    """The reverse process from left to right: for each image x_t, and below it x̂₀.

    Args:
        trajectory: the `Trajectory` of `DiffusionModel.generate(..., return_trajectory=...)`.
        num_images: int, how many of its images to show, from the first on.
        num_frames: int, at most how many of its moments, evenly spaced; the last is the result.
        padding: int, pixels around each image.

    Returns:
        uint8 array `(height, width, channels)`, two rows an image.

    Raises:
        ValueError: if a number is too small, or the trajectory is not one of images.

    Example:

    >>> images, trajectory = model.generate(4, seed=0, return_trajectory=10)
    >>> save_image("filmstrip.png", filmstrip(trajectory))
    """
    if num_images < 1 or num_frames < 1:
        raise ValueError(f"num_images={num_images} and num_frames={num_frames} must be at least 1.")
    total = len(trajectory.x_t)
    frames = np.linspace(total - 1, 0, min(num_frames, total)).round().astype(int)[::-1]
    # (frames, images, ...) twice -> image after image, its x_t in a row and its x̂₀ below.
    rows = np.stack([trajectory.x_t[frames, :num_images], trajectory.x_start[frames, :num_images]])
    cells = np.moveaxis(rows, (2, 0, 1), (0, 1, 2))
    return image_grid(cells.reshape(-1, *cells.shape[3:]), columns=len(frames), padding=padding)


def to_pillow(image, scale=1):
    """One image for Pillow, enlarged `scale` times without smoothing.

    Args:
        image: `(height, width, channels)`, uint8 or float in [-1, 1]; 1 channel is grey.
        scale: int >= 1.

    Returns:
        A `PIL.Image.Image`.

    Raises:
        ValueError: for a shape that is no image's.
    """
    image = to_uint8(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"an image must be (height, width, 1 or 3), got shape {image.shape}.")
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def save_image(path, image, scale=1):
    """Writes one image; the suffix of `path` names the format.

    Args:
        path: the file, whose folder must exist. A file of this name is replaced.
        image: `(height, width, channels)`, uint8 or float in [-1, 1]; 1 channel is grey.
        scale: int >= 1, how often each pixel is repeated in both directions.

    Raises:
        ValueError: for a shape that is no image's, or an unknown suffix.

    Example:

    >>> save_image("grid.png", image_grid(model.generate(16)))
    """
    with written_aside(path) as partial:
        to_pillow(image, scale).save(partial)


def save_gif(path, frames, duration_ms=100, scale=1):
    """Writes an animation that repeats for ever.

    Args:
        path: the file, whose folder must exist. A file of this name is replaced.
        frames: images of one shape `(height, width, channels)`, uint8 or float in [-1, 1].
        duration_ms: how long a frame is shown: an int, or a list with one int a frame.
        scale: int >= 1, how often each pixel is repeated in both directions.

    Raises:
        ValueError: without frames, or if there are not as many durations.

    Example:

    >>> save_gif("process.gif", [image_grid(x) for x in trajectory.x_start], 80)
    """
    frames = [to_pillow(frame, scale) for frame in frames]
    if not frames:
        raise ValueError("an animation needs at least one frame.")
    if not isinstance(duration_ms, int) and len(duration_ms) != len(frames):
        raise ValueError(f"{len(duration_ms)} durations were given for {len(frames)} frames.")
    with written_aside(path) as partial:
        frames[0].save(
            partial, save_all=True, append_images=frames[1:], duration=duration_ms, loop=0
        )


def plot_history(csv_path, png_path):
    """Draws what `keras.callbacks.CSVLogger` wrote: the losses, and the samples' tint.

    The second panel appears where the columns of `SampleImages` do. Solid lines are the channel
    means of the samples, dotted ones those of the training data.

    Args:
        csv_path: the log, with a row an epoch.
        png_path: the picture to write, whose folder must exist.

    Raises:
        ValueError: if the log has no rows.

    Example:

    >>> plot_history("runs/a/log.csv", "runs/a/loss.png")
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator

    columns = _read_columns(csv_path)
    # Without validation, CSVLogger adds empty columns such as val_sample_mean_red.
    prefix = "sample_mean_"
    means = [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
    figure = Figure(figsize=(10, 4) if means else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if means else 1, squeeze=False)[0]
    epochs = columns["epoch"] + 1

    losses = {name: columns[name] for name in ("loss", "val_loss") if name in columns}
    losses = {name: loss for name, loss in losses.items() if np.isfinite(loss).any()}
    for name, loss in losses.items():
        axes[0].plot(epochs, loss, marker="." if len(epochs) < 30 else None, label=name)
    smallest = min(np.nanmin(loss) for loss in losses.values())
    largest = max(np.nanmax(loss) for loss in losses.values())
    if 0 < 3 * smallest < largest:  # a falling loss spans decades; a flat one needs no log
        axes[0].set_yscale("log")
    axes[0].set(title="Loss", ylabel="loss")

    for i, name in enumerate(means):
        colour = name if name in ("red", "green", "blue") else f"C{i}"
        sampled = np.isfinite(columns[f"sample_mean_{name}"])  # not every epoch draws samples
        axes[1].plot(
            epochs[sampled],
            columns[f"sample_mean_{name}"][sampled],
            color=colour,
            marker=".",
            label=f"samples, {name}",
        )
        axes[1].plot(epochs, columns[f"data_mean_{name}"], color=colour, linestyle=":")
    if means:
        axes[1].set(title="Channel means (dotted: data)", ylabel="mean in [-1, 1]")
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(alpha=0.3)
        # Below, where it covers no curve.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    with written_aside(png_path) as partial:
        figure.savefig(partial, dpi=120)


def plot_bits_per_dim(result, path):
    """Draws the term of every timestep, with two standard errors to either side.

    Args:
        result: a `BitsPerDim`.
        path: the picture to write, whose folder must exist. A file of this name is replaced.

    Example:

    >>> plot_bits_per_dim(bits_per_dim(model, images, timesteps=50), "bits.png")
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    number = result.timesteps + 1  # a logarithmic axis has no 0
    margin = 2 * np.nan_to_num(result.by_timestep_error)
    axes.plot(number, result.by_timestep, marker="." if len(number) < 60 else None)
    axes.fill_between(number, result.by_timestep - margin, result.by_timestep + margin, alpha=0.3)
    axes.set(
        xscale="log",
        xlabel="timestep + 1",
        ylabel="bits per dimension",
        title=f"{result.total:.3f} bits per dimension in all, {result.prior:.2g} of them L_T",
    )
    axes.grid(alpha=0.3)
    with written_aside(path) as partial:
        figure.savefig(partial, dpi=120)


def _read_columns(csv_path):
    """The columns of a log as float arrays; what is not a number becomes NaN."""
    with open(csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{csv_path} has no rows: no epoch was finished.")
    return {name: np.array([_to_float(row[name]) for row in rows]) for name in rows[0]}


def _to_float(text):
    try:
        return float(text)
    except (TypeError, ValueError):  # CSVLogger writes "NA" for what was not measured
        return math.nan
