"""Images and curves as files."""

import numpy as np
import pytest
from PIL import Image

from keras_ddpm.files import make_writable, written_aside
from keras_ddpm.plotting import (
    filmstrip,
    image_grid,
    plot_history,
    save_gif,
    save_image,
    to_uint8,
)
from keras_ddpm.samplers import Trajectory

pytestmark = pytest.mark.once


def test_to_uint8_rounds_clips_and_keeps_bytes():
    values = np.float32([-2, -1, -1 + 1 / 127.5, 0, 1, 1.5])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 1, 128, 255, 255])
    pixels = np.arange(256, dtype="uint8")
    np.testing.assert_array_equal(to_uint8(pixels / np.float32(127.5) - 1), pixels)
    assert to_uint8(pixels) is pixels


def test_to_uint8_refuses_what_is_no_image():
    with pytest.raises(TypeError, match="int64"):
        to_uint8(np.arange(3))
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(np.float32([0, np.nan]))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_images_row_by_row(channels):
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones((4, 6, channels), "uint8")
    grid = image_grid(images, padding=2)
    assert grid.shape == (2 * 6 + 2, 3 * 8 + 2, channels)
    assert (grid[2:6, 2:8] == 0).all() and (grid[2:6, 18:24] == 2).all()
    assert (grid[8:12, 10:16] == 4).all()
    assert (grid[8:12, 18:24] == 255).all()  # an empty cell is white
    assert image_grid(images, columns=9, padding=0).shape == (4, 30, channels)


@pytest.mark.parametrize("kwargs", [{"columns": 0}, {"padding": -1}])
def test_image_grid_refuses_wrong_numbers(kwargs):
    with pytest.raises(ValueError, match="at least"):
        image_grid(np.zeros((2, 4, 4, 3)), **kwargs)


def test_image_grid_needs_a_batch():
    with pytest.raises(ValueError, match="shape"):
        image_grid(np.zeros((4, 4, 3)))


def test_filmstrip_shows_the_state_above_what_the_network_sees():
    frames, images = 7, 3
    value = np.arange(frames * images, dtype="float32").reshape(frames, images) / 50
    x_t = np.broadcast_to(value[..., None, None, None], (frames, images, 4, 5, 1))
    trajectory = Trajectory(np.arange(frames)[::-1] - 1, x_t, -x_t)
    strip = filmstrip(trajectory, num_images=2, num_frames=4, padding=1)
    assert strip.shape == (4 * 5 + 1, 4 * 6 + 1, 1)
    shown = strip[3::5, 3::6, 0]
    for row, (part, image) in enumerate([(x_t, 0), (-x_t, 0), (x_t, 1), (-x_t, 1)]):
        np.testing.assert_array_equal(shown[row], to_uint8(part[[0, 2, 4, 6], image, 0, 0, 0]))
    assert filmstrip(trajectory).shape == (6 * 6 + 2, 7 * 7 + 2, 1)  # no more than there are
    with pytest.raises(ValueError, match="num_images=0 and num_frames=10 must be at least 1"):
        filmstrip(trajectory, num_images=0)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_save_image_round_trip(tmp_path, channels, mode):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype="uint8")
    save_image(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as found:
        assert found.mode == mode
        np.testing.assert_array_equal(np.asarray(found).reshape(image.shape), image)
    save_image(tmp_path / "a.png", image, scale=3)
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == (21, 15)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_image_refuses_two_channels(tmp_path):
    with pytest.raises(ValueError, match="1 or 3"):
        save_image(tmp_path / "a.png", np.zeros((4, 4, 2)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_save_gif(tmp_path, channels):
    frames = np.linspace(-1, 1, 3 * 8 * 8 * channels).reshape(3, 8, 8, channels)
    save_gif(tmp_path / "a.gif", frames, [50, 50, 1000], scale=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.size == (16, 16)
        durations = []
        for i in range(3):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [50, 50, 1000]


def test_save_gif_refuses_wrong_lengths(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match="durations"):
        save_gif(tmp_path / "a.gif", np.zeros((2, 4, 4, 3)), [10])


LOGS = {
    "losses": "epoch,loss,val_loss\n0,1.0,1.1\n1,0.1,0.2\n2,0.02,0.1\n",
    "one_epoch": "epoch,loss,val_loss\n0,1.0,NA\n",
    "means": "epoch,data_mean_grey,loss,sample_mean_grey\n0,0.1,1.0,nan\n1,0.1,0.5,0.4\n",
    "means_without_validation": "epoch,data_mean_red,loss,sample_mean_red,val_data_mean_red,"
    "val_loss,val_sample_mean_red\n0,0.1,1.0,0.3,NA,NA,NA\n",
}


@pytest.mark.parametrize("name", LOGS)
def test_plot_history(tmp_path, name):
    (tmp_path / "log.csv").write_text(LOGS[name])
    plot_history(tmp_path / "log.csv", tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5  # not blank


def test_plot_history_needs_rows(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss\n")
    with pytest.raises(ValueError, match="no rows"):
        plot_history(tmp_path / "log.csv", tmp_path / "loss.png")


def test_written_aside_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_aside(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with written_aside(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_make_writable(tmp_path):
    assert make_writable(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        make_writable(tmp_path / "file" / "below")
