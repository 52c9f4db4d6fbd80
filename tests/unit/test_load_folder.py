"""Folders of images: every format, shape and colour, what is left out, and what are classes."""

import functools
import warnings

import numpy as np
import pytest
from PIL import Image
from tools import assert_refused

from keras_ddpm.data import load_folder, load_images

pytestmark = pytest.mark.once
COLOUR = (200, 30, 60)


def save(path, image=(20, 20), colour=COLOUR, **options):
    """Writes an image: a Pillow image, pixels, or the size of one of one colour."""
    if isinstance(image, tuple):
        image = Image.new("RGB", image, colour)
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def load_one(path, image_size=8, **options):
    [image] = load_folder(path.parent, image_size, **options).images
    return image


@pytest.mark.parametrize(
    "mode, extensions",
    [
        ("RGB", "jpg jpeg JPG png bmp gif webp tif tiff"),
        ("RGBA", "png webp"),
        ("P", "png bmp"),
        ("CMYK", "jpg"),
        ("L", "jpg png gif"),
        ("LA", "png"),
        ("1", "png"),
    ],
)
def test_every_format_and_mode_keeps_its_colour(tmp_path, mode, extensions):
    colour = (255,) * 3 if mode in ("L", "LA", "1") else COLOUR
    for extension in extensions.split():
        image = Image.new("RGB", (20, 20), colour).convert(mode)
        found = load_one(save(tmp_path / extension / f"a.{extension}", image))
        assert found.dtype == np.uint8 and found.shape == (8, 8, 3)
        assert np.abs(found - np.array(colour, float)).max() <= 6


def test_16_bit_grey_is_scaled_not_saturated(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    image = load_one(save(tmp_path / "a.png", ramp), image_size=256, channels=1)
    np.testing.assert_array_equal(image[..., 0], ramp // 257)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background(tmp_path, mode):
    image, share, options = Image.new("RGBA", (20, 20), (0, 0, 0, 128)), 127 / 255, {}
    if mode == "P":
        image, share, options = Image.new("P", (20, 20), 0), 1, {"transparency": 0}
    path = save(tmp_path / "a.png", image.convert(mode), **options)
    expected = np.array((0x40, 0x80, 0xFF)) * share
    assert np.abs(load_one(path, background="#4080ff") - expected).max() <= 1


def test_the_first_frame_and_the_rotation_of_the_camera_are_taken(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("lime", "red")]
    path = save(tmp_path / "gif" / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (load_one(path) == (0, 255, 0)).all()
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255  # bright at the top, until turned by a quarter clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_one(save(tmp_path / "png" / "a.png", pixels, exif=exif))
    assert (image[:, 5:] > 250).all() and (image[:, :3] < 5).all()


def test_the_crop_is_central_and_right_sizes_are_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(load_one(path, image_size=20), pixels[:, 20:40])
    for size in ((40, 1), (1, 1), (30, 90)):
        assert load_one(path, size, channels=1).shape == (*size, 1)


def test_shrinking_averages(tmp_path):
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    for extension in ("png", "jpg"):
        path = save(tmp_path / extension / f"a.{extension}", board, quality=100)
        assert np.abs(load_one(path, image_size=16).astype(int) - 127.5).max() <= 8


def test_classes_are_sub_folders_and_numbers_sort_as_numbers(tmp_path):
    for place, red in [("10/z.png", 10), ("2/b.png", 2), ("2/deep/a.png", 3), ("x/a.png", 11)]:
        save(tmp_path / place, colour=(red, 0, 0))
    for ignored in (".b.png", ".cache/c.png", "2/.a.png"):
        save(tmp_path / ignored)
    (tmp_path / "notes.txt").write_text("no image")
    image_set = load_folder(tmp_path, 4)
    assert image_set.class_names == ("2", "10", "x") and image_set.labels.dtype == np.int32
    assert image_set.labels.tolist() == [0, 0, 1, 2]
    assert image_set.images[:, 0, 0, 0].tolist() == [2, 3, 10, 11]
    assert load_folder(tmp_path, 4, num_images=3).labels.tolist() == [0, 0, 1]
    save(tmp_path / "a.png", colour=(1, 0, 0))  # outside of the sub-folders: no classes
    image_set = load_folder(tmp_path, 4)
    assert image_set.labels is None and image_set.class_names is None
    assert image_set.images[:, 0, 0, 0].tolist() == [10, 2, 3, 1, 11]  # in the order of the paths


def test_files_that_cannot_be_read_are_named_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of more pixels Pillow warns
    save(tmp_path / "one" / "a.png", (8, 8), (0, 0, 0))
    save(tmp_path / "one" / "bomb.png", (12, 12))
    save(tmp_path / "one" / "floats.tif", Image.new("F", (8, 8)))
    (tmp_path / "one" / "garbage.png").write_bytes(b"no image")
    save(tmp_path / "two" / "b.png", (8, 8), (255, 255, 255))
    with pytest.warns(UserWarning, match="^skipped ") as caught:
        image_set = load_folder(tmp_path, 8)
    assert len(caught) == 3
    for warning, part in zip(caught, ("bomb.png: Decompression", "floats.tif: V", "garbage.png: ")):
        assert part in str(warning.message)
    assert image_set.labels.tolist() == [0, 1] and image_set.class_names == ("one", "two")
    assert image_set.images.mean((1, 2, 3)).tolist() == [0, 255]


def test_folders_without_a_readable_image_and_wrong_arguments_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*missing.*\.jpg.*\.png"):
        load_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match=rf"{tmp_path} has no images.*\.jpg.*\.png"):
        load_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with warnings.catch_warnings(action="ignore"):
        with pytest.raises(ValueError, match="none of the 1 images"):
            load_folder(tmp_path)
    load = functools.partial(load_images, tmp_path)  # names arguments before it reads anything
    sizes = 6.4, "big", (4, 4.0)
    assert_refused(load, TypeError, image_size=sizes, num_images=(1.5,), split=(3,))
    assert_refused(load, ValueError, image_size=(0, (64, 64, 3)), channels=(2, None))
    assert_refused(load, ValueError, num_images=(0,), background=("whyte", 7))


def test_a_folder_is_found_by_path_data_dir_and_environment(tmp_path, monkeypatch):
    def count(name, **options):
        return len(load_images(name, image_size=8, **options))

    save(tmp_path / "pets" / "a.png")
    assert count(tmp_path / "pets") == count("pets", data_dir=tmp_path) == 1
    monkeypatch.setenv("KERAS_DDPM_DATA", str(tmp_path))
    assert count("pets") == 1
    monkeypatch.delenv("KERAS_DDPM_DATA")
    monkeypatch.chdir(tmp_path)
    assert count("pets") == 1


def test_the_split_of_a_folder_is_a_sub_folder(tmp_path):
    for place in ("train/x/1.png", "train/y/2.png", "valid/x/3.png"):
        save(tmp_path / place)
    assert len(load_images(tmp_path, "valid", image_size=8)) == 1
    assert load_images(tmp_path, "train", image_size=8).class_names == ("x", "y")
    assert load_images(tmp_path, image_size=8).class_names == ("x", "y")  # None is train
    with pytest.raises(ValueError, match="split='test'.*train.*valid"):
        load_images(tmp_path, "test")
    save(tmp_path / "cat" / "4.png")  # not a split, so now the sub-folders are classes
    assert load_images(tmp_path, image_size=8).class_names == ("cat", "train", "valid")
