"""Folders of images: every format, shape and colour, what is left out, and what are classes."""

import functools
import os
import struct
import subprocess
import warnings
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image, features
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
        ("RGB", "jpg jpeg JPG jfif png bmp gif webp tif tiff ppm"),
        ("RGBA", "png webp"),
        ("P", "png bmp"),
        ("CMYK", "jpg"),
        ("L", "jpg png gif pgm"),
        ("LA", "png"),
        ("1", "png"),
    ],
)
def test_every_format_and_mode_keeps_its_colour(tmp_path, mode, extensions):
    colour = (255,) * 3 if mode in ("L", "LA", "1") else COLOUR
    for extension in extensions.split():
        image = Image.new("RGB", (20, 20), colour).convert(mode)
        options = {"format": "JPEG"} if extension == "jfif" else {}
        found = load_one(save(tmp_path / extension / f"a.{extension}", image, **options))
        assert found.dtype == np.uint8 and found.shape == (8, 8, 3)
        assert np.abs(found - np.array(colour, float)).max() <= 6


def test_16_bit_grey_is_scaled_not_saturated(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    image = load_one(save(tmp_path / "a.png", ramp), image_size=256, channels=1)
    np.testing.assert_array_equal(image[..., 0], ramp // 257)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path):
    found = load_one(save(tmp_path / "a.avif"))
    assert np.abs(found - np.array(COLOUR, float)).max() <= 6


def tiff_of_12_bits(values):
    """A TIFF of grey `(height, width)`, in which two numbers share three bytes."""
    height, width = values.shape
    pairs = [int(a) << 12 | int(b) for a, b in values.reshape(-1, 2)]
    data = b"".join(pair.to_bytes(3, "big") for pair in pairs)
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(data)))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def test_grey_of_more_than_8_bits_is_scaled_by_its_range(tmp_path):
    ramp = np.tile(np.arange(8, dtype=np.uint16), (8, 1))
    dark = tmp_path / "tagged" / "a.tif"  # by the bits that the file names, not by its largest
    dark.parent.mkdir()
    dark.write_bytes(tiff_of_12_bits(20 * ramp))
    cases = [(dark, 20 * ramp / 4095)]
    for step, largest in ((9000, 65535), (500, 4095), (36, 255)):
        for kind, extension in (("uint16", "png"), ("uint16", "tif"), ("int32", "tif")):
            path = tmp_path / f"{step}{kind}{extension}" / f"a.{extension}"
            values = (step * ramp.astype("int64")).astype(kind)
            cases.append((save(path, values), step * ramp.astype(float) / largest))
    for path, share in cases:
        found = load_one(path, channels=1)[..., 0]
        np.testing.assert_array_equal(found, np.round(255 * share), err_msg=str(path))


def png_of_16_bit_colours(values):
    """A PNG of colours `(height, width, 3)`, which Pillow can read but not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_16_bits_must_use_them(tmp_path):
    """Pillow keeps the upper 8, so of 12 bits or fewer hardly anything would be left."""
    ramp = np.tile(np.arange(8, dtype=np.uint16)[:, None], (8, 1, 3))
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bit_colours(9000 * ramp))
    np.testing.assert_array_equal(load_one(path), 9000 * ramp // 256)
    for step in (500, 36):  # 12 bits and 8
        path.write_bytes(png_of_16_bit_colours(step * ramp))
        with warnings.catch_warnings(action="ignore"), pytest.raises(ValueError, match="16 bits"):
            load_folder(tmp_path, 8)


def test_pixels_without_a_known_range_are_refused(tmp_path):
    ramp = np.tile(np.arange(8, dtype=np.int32), (8, 1))
    for values, message in ((10000 * ramp, "from 0 to 70000 .*65535"), (ramp - 1, "from -1 to 6 ")):
        save(tmp_path / "a.tif", values)
        with warnings.catch_warnings(action="ignore"), pytest.raises(ValueError, match=message):
            load_folder(tmp_path, 8)


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


def test_files_of_other_kinds_are_counted_in_one_warning(tmp_path):
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "__MACOSX" / "x" / "a.png")
    for name in ("a.heic", "B.HEIC", "notes.txt", "README", ".DS_Store"):
        (tmp_path / "x" / name).write_text("no image")
    with pytest.warns(UserWarning) as caught:
        assert load_folder(tmp_path, 8).class_names == ("x",)
    [message] = [str(warning.message) for warning in caught]
    assert "not read: 2 files of .heic, " in message and "1 of no extension" in message
    assert "1 of .txt" in message and "; files read are ." in message


def test_damaged_files_are_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    names = [f"half.{extension}" for extension in "jpg png bmp gif webp tif ppm".split()]
    for name in names:
        path = save(tmp_path / name, noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    save(tmp_path / "good.png", colour=(7, 7, 7))
    with pytest.warns(UserWarning) as caught:
        images = load_folder(tmp_path, 8).images
    assert len(caught) == len(names) + 2 and (images == 7).all() and len(images) == 1


def test_only_regular_files_and_the_documented_formats_are_opened(tmp_path, monkeypatch):
    """A pipe would wait for ever, and PostScript would run Ghostscript."""
    save(tmp_path / "x" / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x" / "program.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(a program) print\n"
    )
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.warns(UserWarning) as caught:
        assert load_folder(tmp_path, 8).class_names == ("x",)
    messages = sorted(str(warning.message) for warning in caught)
    assert "pipe.png: it is no regular file" in messages[0]
    assert "program.png: UnidentifiedImageError" in messages[1] and len(messages) == 2


def test_each_folder_is_read_once_whatever_links_lead_to_it(tmp_path):
    root = tmp_path / "root"
    for place in ("outside.png", "beside/1.png", "elsewhere/1.png"):
        save(tmp_path / place)
    for name in ("a", "b"):
        save(root / name / "1.png")
    for place, target in (
        ("a/root", root),
        ("a/above", tmp_path),
        ("a/b", root / "b"),  # seen before b itself, but b is no link
        ("c", root / "b"),
        ("d", tmp_path / "elsewhere"),
    ):
        (root / place).symlink_to(target)
    (root / "a" / "2.png").symlink_to(root / "b" / "1.png")  # links to files are files
    image_set = load_folder(root, 8)
    assert image_set.class_names == ("a", "b", "d")
    assert image_set.labels.tolist() == [0, 0, 1, 2]


def test_names_of_folders(tmp_path):
    for name in ("1", "01", "001", "0001", "a\nb", "%s {x} 'y'", "é"):
        save(tmp_path / "good" / name / "a.png")
    (tmp_path / "good" / "empty").mkdir()
    image_set = load_folder(tmp_path / "good", 8)
    numbers = "0001", "001", "01", "1"  # of one value, in an order that is always the same
    assert image_set.class_names == (*numbers, "%s {x} 'y'", "a\nb", "empty", "é")
    assert image_set.labels.tolist() == [0, 1, 2, 3, 4, 5, 7] and image_set.num_classes == 8
    save(tmp_path / "bad" / os.fsdecode(b"x\xff") / "a.png")
    with pytest.raises(ValueError, match="^class_names: .* must be text"):
        load_folder(tmp_path / "bad")


def test_folders_without_a_readable_image_and_wrong_arguments_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*missing.*\.jpg.*\.png"):
        load_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match=rf"{tmp_path} has no images; files read.*\.jpg.*\.png"):
        load_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with warnings.catch_warnings(action="ignore"):
        with pytest.raises(ValueError, match="none of the 1 images"):
            load_folder(tmp_path)
    load = functools.partial(load_images, tmp_path)  # names arguments before it reads anything
    sizes = 6.4, "big", (4, 4.0)
    assert_refused(load, TypeError, image_size=sizes, num_images=(1.5,), split=(3,))
    assert_refused(load, TypeError, channels=(None, True, 1.0), data_dir=(3,), seed=(0.5,))
    assert_refused(load, ValueError, image_size=(0, (64, 64, 3)), channels=(2,), seed=(-1,))
    assert_refused(load, ValueError, num_images=(0,), background=("whyte", 7), split=("",))
    assert_refused(load_folder, TypeError, folder=(None, 3, ""))
    save(tmp_path / "root" / "x" / "a.png")
    load = functools.partial(load_folder, tmp_path / "root")
    assert_refused(load, TypeError, class_names=("x", 3, [1]))
    assert_refused(load, ValueError, class_names=(["x", "x"], []))


def test_numbers_may_be_those_of_numpy(tmp_path):
    save(tmp_path / "a.png")
    size = np.int64(8), np.int32(6)
    found = load_folder(tmp_path, size, channels=np.int8(1), num_images=np.uint8(3)).images
    assert found.shape == (1, 8, 6, 1)


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


@pytest.mark.parametrize("train, test", [("Train", "TEST"), ("Training", "testing")])
def test_splits_are_found_under_other_names_and_the_training_one_is_the_default(
    tmp_path, train, test
):
    for split, count in ((train, 3), ("Dev", 2), (test, 1)):
        for number in range(count):
            save(tmp_path / split / "x" / f"{number}.png")

    def counts(*splits):
        return [len(load_images(tmp_path, split, image_size=8)) for split in splits]

    assert counts(None, "train", "training", train) == [3] * 4
    assert counts("val", "validation", "valid", "dev") == [2] * 4
    assert counts("test", "testing", test) == [1] * 3
    save(tmp_path / "train" / "x" / "1.png")  # one more of the same meaning
    assert counts("train", train) == [1, 3]  # the exact name
    for split in (None, "TRAINING"):
        with pytest.raises(ValueError, match=rf"^split={split!r} of .* may be {train} or train;"):
            load_images(tmp_path, split)


def test_test_images_alone_are_not_read_as_classes(tmp_path):
    for split in ("val", "test"):
        save(tmp_path / split / "x" / "1.png")
    with pytest.raises(ValueError, match=r"^split=None: .* only \['test', 'val'\]"):
        load_images(tmp_path)
    assert load_images(tmp_path, "val", image_size=8).class_names == ("x",)
    assert load_folder(tmp_path, 8).class_names == ("test", "val")


def test_classes_have_the_numbers_of_the_training_images(tmp_path):
    for place in ("train/2/1.png", "train/10/1.png", "train/x/1.png", "Val/x/1.png", "Val/2/1.png"):
        save(tmp_path / place)
    (tmp_path / "train" / "empty").mkdir()
    names = ("2", "10", "empty", "x")
    train, val = (load_images(tmp_path, split, image_size=8) for split in ("train", "val"))
    assert train.class_names == val.class_names == names
    assert train.labels.tolist() == [0, 1, 3] and val.labels.tolist() == [0, 3]
    assert load_folder(tmp_path / "Val", 8).class_names == ("2", "x")
    assert load_folder(tmp_path / "Val", 8, class_names=names).labels.tolist() == [0, 3]
    save(tmp_path / "Val" / "y" / "1.png")
    with pytest.raises(ValueError, match="classes that are not among the 4 class names: y"):
        load_images(tmp_path, "val")
    save(tmp_path / "Val" / "1.png")  # images without labels stay without
    assert load_images(tmp_path, "val", image_size=8).labels is None
