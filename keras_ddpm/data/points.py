"""Points in the plane with labels: data whose distribution one can see, drawn with NumPy alone.

All sets lie around zero and are about as wide as the noise that diffusion adds: the standard
deviation of a coordinate is between 0.4 and 1.
"""

import numbers

import numpy as np

from keras_ddpm.validation import check_positive_int

SPIRAL_INNER, SPIRAL_OUTER = 0.25, 1.5  # radii between which an arm runs


def draw_spiral(num_points, noise=0.03, seed=0, turns=1.5, arms=1):
    """Draws points along Archimedean spirals, evenly by length.

    Several arms together have the mean zero; that of a single arm lies within 0.5 of it.

    Args:
        num_points: int >= 1.
        noise: float >= 0, standard deviation of the points around their arm.
        seed: int >= 0.
        turns: float > 0, how often an arm goes round.
        arms: int >= 1, turned against each other by equal angles.

    Returns:
        Points, float32 `(num_points, 2)`, of standard deviation about 0.75, and labels, int32
        `(num_points,)`: which arm.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a number outside its range.

    Example:

    >>> points, labels = draw_spiral(1000, arms=2)
    >>> points.shape, labels.max()
    ((1000, 2), 1)
    """
    rng = _start(num_points, seed, noise=noise)
    check_positive_int("arms", arms)
    if not isinstance(turns, numbers.Real) or not 0 < turns < np.inf:
        raise ValueError(f"turns must be a number above 0, got {turns!r}.")
    labels = rng.integers(arms, size=num_points)
    # Outward, a turn grows longer with its radius: so the squares of radii are uniform.
    radius = np.sqrt(rng.uniform(SPIRAL_INNER**2, SPIRAL_OUTER**2, num_points))
    angle = 2 * np.pi * (turns * radius / SPIRAL_OUTER + labels / arms)
    return _finish(rng, radius[:, None] * _on_circle(angle), noise, labels)


def draw_moons(num_points, noise=0.05, seed=0):
    """Draws two half circles of radius 1, each around an end of the other.

    Args:
        num_points: int >= 1.
        noise: float >= 0, standard deviation of the points around their half circle.
        seed: int >= 0.

    Returns:
        Points, float32 `(num_points, 2)`, of standard deviation about 0.87 in x and 0.5 in y, and
        labels, int32 `(num_points,)`: 0 for the upper moon, 1 for the lower one.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a number outside its range.

    Example:

    >>> points, labels = draw_moons(1000)
    """
    rng = _start(num_points, seed, noise=noise)
    labels = rng.integers(2, size=num_points)
    upper = _on_circle(rng.uniform(0, np.pi, num_points)) - [0.5, 0.25]
    # Half a turn around the centre takes one moon to the other.
    return _finish(rng, np.where(labels[:, None] == 0, upper, -upper), noise, labels)


def draw_mixture(num_points, modes=8, std=0.05, seed=0):
    """Draws from equally likely Gaussians, whose means `mixture_means` lie on a ring.

    Args:
        num_points: int >= 1.
        modes: int >= 1, how many Gaussians.
        std: float >= 0, standard deviation of each, in x as in y.
        seed: int >= 0.

    Returns:
        Points, float32 `(num_points, 2)`, of standard deviation about 0.7, and labels, int32
        `(num_points,)`: which Gaussian.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a number outside its range.

    Example:

    >>> points, labels = draw_mixture(1000, modes=8, std=0.05)
    >>> residuals = points - mixture_means(8)[labels]  # normal, with std 0.05
    """
    rng = _start(num_points, seed, std=std)
    means = mixture_means(modes)
    labels = rng.integers(modes, size=num_points)
    return _finish(rng, means[labels], std, labels)


def mixture_means(modes=8):
    """The exact means of `draw_mixture`, float64 `(modes, 2)`, on the circle of radius 1."""
    check_positive_int("modes", modes)
    return _on_circle(2 * np.pi * np.arange(modes) / modes)


def _start(num_points, seed, **spread):
    """Checks what all sets have in common, and returns a random generator."""
    check_positive_int("num_points", num_points)
    check_positive_int("seed", seed, minimum=0)
    for name, value in spread.items():
        if not isinstance(value, numbers.Real) or not 0 <= value < np.inf:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
    return np.random.default_rng(seed)


def _finish(rng, centres, std, labels):
    points = centres + std * rng.standard_normal(centres.shape)
    return points.astype("float32"), labels.astype("int32")


def _on_circle(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
