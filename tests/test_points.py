"""Points in the plane against the formulas that they are drawn by."""

import numpy as np
import pytest

from keras_ddpm.data.points import (
    draw_mixture,
    draw_moons,
    draw_spiral,
    mixture_means,
)
from keras_ddpm.metrics import sliced_wasserstein
from keras_ddpm.scatter import draw_scatter

pytestmark = pytest.mark.once


@pytest.mark.parametrize("draw", [draw_spiral, draw_moons, draw_mixture])
def test_points_lie_around_zero_of_about_unit_scale_and_seeded(draw):
    points, labels = draw(20_000)
    assert points.shape == (20_000, 2) and points.dtype == np.float32
    assert labels.shape == (20_000,) and labels.dtype == np.int32
    assert np.linalg.norm(points.mean(0)) < 0.5
    assert 0.4 < points.std(0).min() and points.std(0).max() < 1
    np.testing.assert_array_equal(draw(20_000)[0], points)
    assert (draw(20_000, seed=1)[0] != points).all()


def test_a_spiral_without_noise_has_radii_proportional_to_angles():
    points, labels = draw_spiral(500, noise=0, turns=2, arms=3)
    radius = np.hypot(*points.T)
    angle = 2 * np.pi * (2 * radius / 1.5 + labels / 3)
    np.testing.assert_allclose(
        points, radius[:, None] * np.c_[np.cos(angle), np.sin(angle)], atol=1e-5
    )
    assert set(labels) == {0, 1, 2} and 0.25 <= radius.min() and radius.max() <= 1.5


def test_moons_without_noise_are_half_circles_around_each_others_ends():
    points, labels = draw_moons(500, noise=0)
    upper, lower = points[labels == 0], points[labels == 1]
    np.testing.assert_allclose(np.hypot(*(upper + [0.5, 0.25]).T), 1, atol=1e-5)
    np.testing.assert_allclose(np.hypot(*(lower - [0.5, 0.25]).T), 1, atol=1e-5)
    assert (upper[:, 1] >= -0.2501).all() and (lower[:, 1] <= 0.2501).all()


def test_a_mixture_has_the_means_and_the_std_it_says():
    points, labels = draw_mixture(40_000, modes=5, std=0.1)
    means = mixture_means(5)
    np.testing.assert_allclose(np.hypot(*means.T), 1)
    for mode, mean in enumerate(means):
        mine = points[labels == mode]
        assert abs(len(mine) / 40_000 - 0.2) < 0.01  # five standard errors
        np.testing.assert_allclose(mine.mean(0), mean, atol=0.006)
        np.testing.assert_allclose(mine.std(0), 0.1, atol=0.004)


def test_sliced_wasserstein_of_a_shift():
    """Moved by d, every projection moves by |d cos|, whose mean is 2 / pi of d."""
    points, _ = draw_moons(300)
    assert sliced_wasserstein(points, points[::-1]) == 0
    moved = points + np.float32([0.5, 0])
    np.testing.assert_allclose(sliced_wasserstein(points, moved, 20_000), 1 / np.pi, rtol=0.02)
    with pytest.raises(ValueError, match=r"\(300, 2\) and \(299, 2\)"):
        sliced_wasserstein(points, points[1:])


def test_a_scatter_shows_points_where_they_are_in_the_colours_of_their_labels():
    picture = draw_scatter(
        {
            "a": (np.tile([[1.0, 1.0], [-1.0, -1.0]], (9, 1)), [0, 1] * 9),
            "b": (np.zeros((1, 2)), None),
        }
    )
    assert picture.shape == (320, 640, 3) and picture.dtype == np.uint8
    red, green, blue = picture[:, :320].astype(int).transpose(2, 0, 1)
    is_blue, is_orange = blue - red > 80, red - blue > 80  # C0 and C1
    rows, columns = np.nonzero(is_blue)
    assert rows.mean() < 160 < columns.mean()  # above, right
    rows, columns = np.nonzero(is_orange)
    assert columns.mean() < 160 < rows.mean()
    with pytest.raises(ValueError, match=r"'a' must be \(n, 2\), got \(3,\)"):
        draw_scatter({"a": (np.zeros(3), None)})
    with pytest.raises(ValueError, match="panels is empty"):
        draw_scatter({})


@pytest.mark.parametrize(
    "draw, kwargs, error, message",
    [
        (draw_moons, {"num_points": 0}, ValueError, "num_points must be at least 1, got 0"),
        (draw_moons, {"num_points": 5, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (draw_moons, {"num_points": 5, "noise": -1}, ValueError, "noise must be a number of at"),
        (draw_spiral, {"num_points": 5, "turns": 0}, ValueError, "turns must be a number above 0"),
        (draw_spiral, {"num_points": 5, "arms": 1.5}, TypeError, "arms must be an int, got 1.5"),
        (draw_mixture, {"num_points": 5, "std": np.nan}, ValueError, "std must be .* got nan"),
        (draw_mixture, {"num_points": 5, "modes": 0}, ValueError, "modes must be at least 1"),
    ],
)
def test_wrong_arguments(draw, kwargs, error, message):
    with pytest.raises(error, match=message):
        draw(**kwargs)
