"""Images and curves as files."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.pixels import to_float, to_uint8
from keras_ddpm.plotting import filmstrip, image_grid, plot_history, save_gif, save_image
from keras_ddpm.samplers import Trajectory

pytestmark = pytest.mark.once


def test_bytes_and_floats_stand_for_each_other():
    values = np.float32([-2, -1, -1 + 1 / 127.5, 0, 1, 1.5])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 1, 128, 255, 255])
    pixels = np.arange(256, dtype="uint8")
    floats = to_float(pixels)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, np.linspace(-1, 1, 256), atol=1e-7)
    np.testing.assert_array_equal(to_uint8(floats), pixels)
    np.testing.assert_array_equal(to_float(values.astype("float64")), values)


def test_a_grid_places_images_row_by_row():
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones((4, 6, 3), "uint8")
    grid = image_grid(images, padding=2)
    assert grid.shape == (2 * 6 + 2, 3 * 8 + 2, 3)
    assert (grid[2:6, 2:8] == 0).all() and (grid[2:6, 18:24] == 2).all()
    assert (grid[8:12, 10:16] == 4).all()
    assert (grid[8:12, 18:24] == 255).all()  # an empty cell is white
    assert image_grid(images, columns=9, padding=0).shape == (4, 30, 3)


def test_a_filmstrip_shows_the_state_above_the_predicted_image():
    value = np.arange(21, dtype="float32").reshape(7, 3) / 50  # of 7 frames, 3 images
    x_t = np.broadcast_to(value[..., None, None, None], (7, 3, 4, 5, 1))
    trajectory = Trajectory(np.arange(7)[::-1] - 1, x_t, -x_t)
    strip = filmstrip(trajectory, num_images=2, num_frames=4, padding=1)
    assert strip.shape == (4 * 5 + 1, 4 * 6 + 1, 1)
    shown = strip[3::5, 3::6, 0]
    for row, (part, image) in enumerate([(x_t, 0), (-x_t, 0), (x_t, 1), (-x_t, 1)]):
        np.testing.assert_array_equal(shown[row], to_uint8(part[[0, 2, 4, 6], image, 0, 0, 0]))
    assert filmstrip(trajectory).shape == (6 * 6 + 2, 7 * 7 + 2, 1)  # no more than there are


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_a_saved_image_has_the_same_pixels(tmp_path, channels, mode):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype="uint8")
    save_image(tmp_path / "a.png", image, scale=3)
    with Image.open(tmp_path / "a.png") as found:
        assert found.mode == mode
        found = np.asarray(found).reshape(15, 21, channels)
    np.testing.assert_array_equal(found, image.repeat(3, 0).repeat(3, 1))
    for name, wrong, match in (("b.png", np.zeros((4, 4, 2)), "1 or 3"), ("b.xyz", image, "xyz")):
        with pytest.raises(ValueError, match=match):
            save_image(tmp_path / name, wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_animation_has_its_frames_and_durations(tmp_path):
    frames = np.linspace(-1, 1, 3 * 8 * 8 * 3).reshape(3, 8, 8, 3)
    save_gif(tmp_path / "a.gif", frames, [50, 50, 1000], scale=2)
    durations, brightness = [], []
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.size == (16, 16)
        for frame in ImageSequence.Iterator(gif):
            durations.append(frame.info["duration"])
            brightness.append(np.asarray(frame.convert("L")).mean())
    assert durations == [50, 50, 1000] and brightness == sorted(brightness)


@pytest.mark.parametrize(
    "log, width",
    [
        ("epoch,loss,val_loss\n0,1.0,1.1\n1,0.1,0.2\n2,0.02,0.1\n", 720),
        ("epoch,loss,val_loss\n0,1.0,NA\n", 720),
        ("epoch,data_mean_grey,loss,sample_mean_grey\n0,0.1,1.0,nan\n1,0.1,0.5,0.4\n", 1200),
    ],
)
def test_curves_are_drawn_of_every_kind_of_log(tmp_path, log, width):
    source, target = tmp_path / "log.csv", tmp_path / "loss.png"
    source.write_text(log)
    plot_history(source, target)
    with Image.open(target) as picture:
        assert picture.size == (width, 480)
        assert np.asarray(picture.convert("L")).std() > 5  # not blank
    source.write_text("epoch,loss\n")
    with pytest.raises(ValueError, match="no rows"):
        plot_history(source, target)


def test_a_failed_write_keeps_the_old_file_and_a_wrong_folder_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1
    assert make_writable(tmp_path / "a" / "b").is_dir()
    with pytest.raises(OSError, match="cannot write to .*below.*Choose another folder"):
        make_writable(path / "below")
