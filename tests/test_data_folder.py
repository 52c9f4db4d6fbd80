"""Sets of images, the embedded set by name, and folders of every kind of image."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_ddpm.data import ImageSet, load_folder, load_images

COLOUR = (200, 30, 60)


def save(path, size=(20, 20), colour=COLOUR, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def load_one(path, image_size=8, **options):
    images = load_folder(path.parent, image_size, **options).images
    assert len(images) == 1
    return images[0]


@pytest.mark.parametrize(
    "mode, extension",
    [("RGB", e) for e in ("jpg", "jpeg", "JPG", "png", "bmp", "gif", "webp", "tif", "tiff")]
    + [("RGBA", "png"), ("RGBA", "webp"), ("P", "png"), ("P", "bmp"), ("CMYK", "jpg")]
    + [("L", "jpg"), ("L", "png"), ("LA", "png"), ("1", "png"), ("L", "gif"), ("I;16", "tif")],
)
def test_every_format_and_mode_keeps_its_colour(tmp_path, mode, extension):
    grey = mode in ("L", "LA", "I;16", "1")
    path = save(tmp_path / f"a.{extension}", colour="white" if grey else COLOUR, mode="RGB")
    if mode == "I;16":
        Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(path)
    else:
        save(path, colour="white" if grey else COLOUR, mode=mode)
    image = load_one(path)
    assert image.dtype == np.uint8 and image.shape == (8, 8, 3)
    assert np.abs(image - np.array((255,) * 3 if grey else COLOUR, float)).max() <= 6


def test_16_bit_grey_is_scaled_not_saturated(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    image = load_one(tmp_path / "a.png", image_size=256, channels=1)
    np.testing.assert_array_equal(image[..., 0], ramp // 257)


@pytest.mark.parametrize("mode, extension", [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp")])
def test_half_transparent_images_show_the_background(tmp_path, mode, extension):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 128)).convert(mode)
    image.save(tmp_path / f"a.{extension}", lossless=True)
    expected = np.array((0x40, 0x80, 0xFF)) * 127 / 255
    found = load_one(tmp_path / f"a.{extension}", background="#4080ff")
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_transparent_palette_shows_the_background(tmp_path, extension):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([9, 9, 9] + [0, 0, 0] * 255)
    image.save(tmp_path / f"a.{extension}", transparency=0)
    assert (load_one(tmp_path / f"a.{extension}", background="red") == (255, 0, 0)).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("lime", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (load_one(tmp_path / "a.gif") == (0, 255, 0)).all()


def test_camera_rotation_is_applied(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255  # bright at the top, until turned by a quarter clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = load_one(tmp_path / "a.png")
    assert (image[:, 5:] > 250).all() and (image[:, :3] < 5).all()


def test_crop_is_central(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (load_one(tmp_path / "a.png", image_size=20) == 255).all()


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_shrinking_averages(tmp_path, extension):
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / f"a.{extension}", quality=100)
    image = load_one(tmp_path / f"a.{extension}", image_size=16).astype(int)
    assert np.abs(image - 127.5).max() <= 8


def test_bytes_of_the_right_size_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_one(tmp_path / "a.png", image_size=16), pixels)


@settings(max_examples=25, deadline=None)
@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    channels=st.sampled_from([1, 3]),
)
def test_any_size_becomes_the_size_asked_for(source, target, channels):
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", source, COLOUR).save(f"{folder}/a.png")
        image = load_folder(folder, target, channels).images[0]
    assert image.shape == (*target, channels)
    grey = round(np.dot(COLOUR, (0.299, 0.587, 0.114)))
    assert (image == (grey if channels == 1 else COLOUR)).all()


def test_classes_are_sub_folders_and_numbers_sort_as_numbers(tmp_path):
    for place, red in [("10/z.png", 10), ("2/b.png", 2), ("2/deep/a.png", 3), ("x/a.png", 11)]:
        save(tmp_path / place, colour=(red, 0, 0))
    image_set = load_folder(tmp_path, 4)
    assert image_set.label_names == ("2", "10", "x")
    assert image_set.labels.dtype == np.int32
    pairs = zip(image_set.labels.tolist(), image_set.images[:, 0, 0, 0].tolist(), strict=True)
    assert list(pairs) == [(0, 2), (0, 3), (1, 10), (2, 11)]
    assert load_folder(tmp_path, 4, num_images=3).labels.tolist() == [0, 0, 1]


def test_an_image_outside_the_sub_folders_means_no_labels(tmp_path):
    for place, red in [("b.png", 2), ("c/a.png", 3), ("a.png", 1)]:
        save(tmp_path / place, colour=(red, 0, 0))
    image_set = load_folder(tmp_path, 4)
    assert image_set.labels is None and image_set.label_names is None
    assert image_set.images[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_hidden_and_other_files_are_ignored(tmp_path):
    good = save(tmp_path / "a.png")
    save(tmp_path / ".b.png")
    save(tmp_path / ".cache" / "c.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert load_one(good).shape == (8, 8, 3)


@pytest.mark.parametrize("how", ["garbage", "truncated", "empty"])
def test_a_broken_image_is_named_and_skipped(tmp_path, how):
    save(tmp_path / "one" / "a.jpg", colour=(0, 0, 0))
    broken = save(tmp_path / "one" / "b.jpg", size=(200, 200))
    save(tmp_path / "two" / "c.jpg", colour=(255, 255, 255))
    data = {"garbage": b"no image", "truncated": broken.read_bytes()[:700], "empty": b""}
    broken.write_bytes(data[how])
    with pytest.warns(UserWarning, match="skipped .*b.jpg: .+") as caught:
        image_set = load_folder(tmp_path, 8)
    assert len(caught) == 1
    assert image_set.labels.tolist() == [0, 1] and image_set.label_names == ("one", "two")
    assert image_set.images.mean((1, 2, 3)).tolist() == [0, 255]


@pytest.mark.parametrize("side", [12, 20])  # Pillow warns of the first and refuses the second
def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch, side):
    save(tmp_path / "a.png", size=(8, 8))
    save(tmp_path / "bomb.png", size=(side, side))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.warns(UserWarning, match="skipped .*bomb.png: Decompression"):
        assert len(load_folder(tmp_path, 8)) == 1


@pytest.mark.filterwarnings("ignore:skipped")
def test_folders_without_a_readable_image_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"missing.*\.jpg.*\.png"):
        load_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match=rf"{tmp_path}.*\.jpg.*\.png"):
        load_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 1 images"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"image_size": 6.4},
        {"image_size": (64, 64, 3)},
        {"image_size": "big"},
        {"channels": 2},
        {"channels": None},
        {"num_images": 0},
        {"num_images": 1.5},
        {"background": "whyte"},
        {"background": 7},
    ],
    ids=str,
)
def test_wrong_arguments_are_named_before_anything_is_read(tmp_path, wrong):
    (tmp_path / "a.png").write_bytes(b"no image")
    (argument,) = wrong
    with pytest.raises((TypeError, ValueError), match=argument):
        load_images(tmp_path, **wrong)


def test_a_folder_is_found_by_path_data_dir_and_environment(tmp_path, monkeypatch):
    save(tmp_path / "pets" / "a.png")
    assert len(load_images(tmp_path / "pets", image_size=8)) == 1
    assert len(load_images("pets", image_size=8, data_dir=tmp_path)) == 1
    monkeypatch.setenv("KERAS_DDPM_DATA", str(tmp_path))
    assert len(load_images("pets", image_size=8)) == 1
    monkeypatch.chdir(tmp_path)
    assert len(load_images("pets", image_size=8, num_images=1)) == 1


def test_split_of_a_folder_is_a_sub_folder(tmp_path):
    for place in ("train/x/1.png", "train/y/2.png", "valid/x/3.png"):
        save(tmp_path / place)
    assert len(load_images(tmp_path, "valid", image_size=8)) == 1
    assert load_images(tmp_path, "train", image_size=8).label_names == ("x", "y")
    assert load_images(tmp_path, image_size=8).label_names == ("x", "y")  # None is train
    with pytest.raises(ValueError, match="split='test'.*train.*valid"):
        load_images(tmp_path, "test")
    save(tmp_path / "cat" / "4.png")  # not a split, so now the sub-folders are classes
    assert load_images(tmp_path, image_size=8).label_names == ("cat", "train", "valid")


def test_drawn_flowers_by_name():
    train = load_images("drawn_flowers", image_size=(24, 32), num_images=6)
    assert train.images.shape == (6, 24, 32, 3) and train.labels.shape == (6,)
    again = load_images("drawn_flowers", "train", image_size=(24, 32), num_images=6)
    np.testing.assert_array_equal(train.images, again.images)
    for split, seed in [("validation", 0), ("test", 0), ("train", 1)]:
        other = load_images("drawn_flowers", split, (24, 32), num_images=6, seed=seed)
        assert (other.images != train.images).any()
    grey = load_images("drawn_flowers", image_size=(24, 32), channels=1, num_images=6).images
    assert grey.shape == (6, 24, 32, 1) and grey.dtype == np.uint8
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in train.images])
    assert np.abs(grey[..., 0] - pillow.astype(int)).max() <= 1
    with pytest.raises(ValueError, match="split.*'dev'"):
        load_images("drawn_flowers", "dev")
    with pytest.raises(ValueError, match="seed.*-1"):
        load_images("drawn_flowers", seed=-1)


@pytest.mark.parametrize("name", [None, "", 3])
def test_name_must_be_a_name(name):
    with pytest.raises(TypeError, match="name"):
        load_images(name)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_split_is_a_deterministic_partition(count, fraction, seed):
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    image_set = ImageSet(images, np.arange(count), None)
    rest, held_out = image_set.split(fraction, seed)
    assert len(rest) >= 1 and abs(len(held_out) - fraction * count) <= 1
    assert sorted([*rest.labels, *held_out.labels]) == list(range(count))
    for part in (rest, held_out):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
        assert part.labels.dtype == np.int32
    np.testing.assert_array_equal(held_out.labels, image_set.split(fraction, seed)[1].labels)


def test_image_set_refuses_what_does_not_fit():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    for wrong in (images / 255, images[0]):
        with pytest.raises(ValueError, match="images must be"):
            ImageSet(wrong, None, None)
    for wrong in (np.zeros(2, int), np.zeros(3), np.zeros((3, 1), int)):
        with pytest.raises(ValueError, match="labels must be 3"):
            ImageSet(images, wrong, None)
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            ImageSet(images, None, None).split(fraction)
    with pytest.raises(ValueError, match="two or more"):
        ImageSet(images[:1], None, None).split(0.5)


@pytest.mark.needs("jax")
def test_works_without_tensorflow(tmp_path):
    save(tmp_path / "a.png")
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # not importable
from keras_ddpm.data import ImageDataset, load_images
folder = load_images(sys.argv[1], image_size=8)
assert ImageDataset(folder, batch_size=1)[0][0].shape == (1, 8, 8, 3)
assert len(load_images("drawn_flowers", image_size=24, num_images=2)) == 2
try:
    load_images("cats_vs_dogs")
except ImportError as error:
    assert "pip install tensorflow tensorflow-datasets" in str(error) and "folder" in str(error)
else:
    raise AssertionError("load_images('cats_vs_dogs') needs TFDS")
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, check=True)


@pytest.mark.needs("jax")
def test_import_leaves_tensorflow_alone():
    code = """
import sys, keras_ddpm.data
assert not {"tensorflow", "tensorflow_datasets"} & {*sys.modules}
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
