"""Points in the plane as pictures, for PNGs and the frames of animations."""

import numpy as np

PIXELS = 320  # side of a panel
DPI = 100


def draw_scatter(panels, limit=2.0):
    """Draws sets of points side by side, all on the same scale.

    Args:
        panels: dict from a panel's title to `(points, labels)`: floats `(n, 2)`, and ints `(n,)`
            that choose the colour, or None for one colour.
        limit: float > 0; both axes show [-limit, limit], and no points beyond.

    Returns:
        uint8 array `(height, width, 3)`, for `save_image` and `save_gif`.

    Raises:
        ValueError: without panels, or for points that are not `(n, 2)`.

    Example:

    >>> points, labels = draw_moons(1000)
    >>> save_image("moons.png", draw_scatter({"two moons": (points, labels)}))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba_array
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    if not panels:
        raise ValueError("panels is empty: a picture needs at least one.")
    size = (len(panels) * PIXELS / DPI, PIXELS / DPI)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    palette = to_rgba_array([f"C{i}" for i in range(10)])
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (points, labels)) in zip(all_axes, panels.items()):
        points = np.asarray(points)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"the points of {title!r} must be (n, 2), got {points.shape}.")
        labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
        # Without snap: markers moved to whole pixels make thin lines thicker.
        axes.scatter(*points.T, s=3, c=palette[labels % len(palette)], linewidths=0, snap=False)
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
