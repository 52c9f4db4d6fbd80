"""The embedded data set, `load_images` by name, and `ImageSet`, which is what it returns."""

import functools

import numpy as np
import pytest
from PIL import Image
from tools import assert_refused, run_python

from keras_ddpm.data import ImageSet, draw_flowers, load_images
from keras_ddpm.data.drawn_flowers import CLASS_NAMES, COLOURS, PETALS
from keras_ddpm.data.images import fit_image

pytestmark = pytest.mark.once
CLASSES = len(CLASS_NAMES)


def test_names_follow_the_formula_of_labels():
    assert len(set(CLASS_NAMES)) == CLASSES == len(COLOURS) * len(PETALS)
    for c, colour in enumerate(COLOURS):
        for p, petals in enumerate(PETALS):
            assert CLASS_NAMES[c * len(PETALS) + p] == f"{colour} {petals}-petalled"


def test_shape_dtype_and_range():
    images, labels = draw_flowers(30, (28, 40))
    assert images.shape == (30, 28, 40, 3) and images.dtype == np.uint8
    assert labels.shape == (30,) and labels.dtype == np.int32
    assert images.min() < 60 and images.max() > 220  # the range is used, not just allowed
    assert (images.std(axis=(1, 2)) > 5).all()  # and no picture is flat


def test_a_short_data_set_is_the_beginning_of_a_longer_one():
    for short, more in ((1, 1), (20, 4), (25, 40)):
        images, labels = draw_flowers(short, 16, seed=short)
        longer_images, longer_labels = draw_flowers(short + more, 16, seed=short)
        np.testing.assert_array_equal(images, longer_images[:short])
        np.testing.assert_array_equal(labels, longer_labels[:short])
        counts = np.bincount(longer_labels, minlength=CLASSES)
        assert counts.max() - counts.min() <= 1  # every beginning is balanced


def test_seeds_and_pictures_differ():
    labels = np.zeros(20, int)
    images = [draw_flowers(20, 16, seed, labels)[0] for seed in (0, 1)]
    assert len(np.unique(np.reshape(images, (40, -1)), axis=0)) == 40
    blocks = np.concatenate([draw_flowers(2 * CLASSES, 16, seed)[1] for seed in (0, 1)])
    blocks = blocks.reshape(4, CLASSES)  # each holds all classes, in an order of its own
    assert len(np.unique(blocks, axis=0)) == 4
    assert not (blocks == np.arange(CLASSES)).all(axis=1).any()


def test_requested_labels_are_drawn_and_leave_the_other_pictures_alone():
    images, labels = draw_flowers(30, 16, 4)
    names = [CLASS_NAMES[label] for label in labels]
    names[5] = "white 8-petalled" if labels[5] != CLASSES - 1 else "red 4-petalled"
    changed, found = draw_flowers(30, 16, 4, names)
    assert np.flatnonzero((changed != images).any(axis=(1, 2, 3))).tolist() == [5]
    assert [CLASS_NAMES[label] for label in found] == names and found.dtype == np.int32


def test_drawn_flowers_by_name():
    train = load_images("drawn_flowers", image_size=(24, 32), num_images=6)
    assert train.images.shape == (6, 24, 32, 3) and train.labels.shape == (6,)
    assert train.class_names == CLASS_NAMES
    sets = [
        load_images("drawn_flowers", split, 16, num_images=6, seed=seed).images
        for split in ("train", "validation", "test")
        for seed in range(4)
    ]
    assert len(np.unique(np.reshape(sets, (72, -1)), axis=0)) == 72
    grey = load_images("drawn_flowers", image_size=(24, 32), channels=1, num_images=6).images
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in train.images])
    assert grey.shape == (6, 24, 32, 1) and grey.dtype == np.uint8
    assert np.abs(grey[..., 0] - pillow.astype(int)).max() <= 1


def test_a_jpeg_is_never_decoded_at_less_than_twice_the_size_that_is_needed(tmp_path):
    """A decoder can shrink by 2, 4 or 8, but none of these may be shrunk."""
    for number, (side, size) in enumerate(((96, (64, 64)), (250, (64, 64)), (120, (16, 64)))):
        path = tmp_path / f"{number}" / "a.jpg"
        path.parent.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), "uint8")
        Image.fromarray(pixels).save(path, quality=95)
        [found] = load_images(path.parent, image_size=size).images
        with Image.open(path) as image:
            np.testing.assert_array_equal(found, fit_image(image, size, 3))


def test_a_split_is_a_partition_that_follows_from_the_seed():
    for count, fraction, expected in ((2, 0.01, 1), (2, 0.99, 1), (60, 0.3, 18)):
        images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
        image_set = ImageSet(images, np.arange(count), map(str, range(count)))
        rest, held_out = image_set.split(fraction, seed=1)
        assert len(held_out) == expected
        assert sorted([*rest.labels, *held_out.labels]) == list(range(count))
        for part in (rest, held_out):
            np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
            assert part.labels.dtype == np.int32 and part.num_classes == count
            assert part.labels.tolist() == sorted(part.labels)
    np.testing.assert_array_equal(held_out.labels, image_set.split(0.3, seed=1)[1].labels)
    assert held_out.labels.tolist() != image_set.split(0.3, seed=2)[1].labels.tolist()
    assert ImageSet(images, np.arange(60)).num_classes == 60
    assert ImageSet(images).num_classes is None


def test_wrong_arguments_are_named():
    draw = functools.partial(draw_flowers, 2)
    load = functools.partial(load_images, "drawn_flowers")
    assert_refused(draw_flowers, ValueError, num_images=(0,))
    assert_refused(draw, ValueError, seed=(-1,), labels=([0], [0, CLASSES], "red 7-petalled"))
    assert_refused(draw, ValueError, image_size=(15, (32, 8), (32, 32, 3)))
    assert_refused(load_images, TypeError, name=(None, "", 3))
    assert_refused(load, ValueError, split=("dev",), seed=(-1,), image_size=(15,))
    images = np.zeros((60, 4, 4, 3), np.uint8)
    make = functools.partial(ImageSet, images)
    assert_refused(ImageSet, ValueError, images=(images / 255, images[0]))
    assert_refused(make, ValueError, labels=(np.zeros(2, int), np.zeros((60, 1), int), 0))
    assert_refused(make, TypeError, labels=(np.zeros(60),))
    assert_refused(make().split, ValueError, fraction=(0, 1, float("nan")))
    assert_refused(functools.partial(make().split, 0.5), ValueError, seed=(-1,))
    assert_refused(make, ValueError, class_names=(["a", "a"], []))
    assert_refused(make, TypeError, class_names=("ab", [1], 3))
    with pytest.raises(ValueError, match=r"^labels holds .*\[0, 1\]"):
        make(np.full(60, 2), ("a", "b"))
    with pytest.raises(ValueError, match="a set of 1 images cannot be split"):
        make().take([0]).split(0.5)


@pytest.mark.needs("jax")
def test_folders_and_drawings_need_no_tensorflow(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    code = """
import sys
from keras_ddpm.data import load_images
assert not {"tensorflow", "tensorflow_datasets"} & {*sys.modules}, "imported for nothing"
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # not importable
for name in (sys.argv[1], "drawn_flowers"):
    print(len(load_images(name, image_size=16, num_images=1)))
try:
    load_images("cats_vs_dogs")
except ImportError as error:
    print(error)
"""
    message = run_python("-c", code, tmp_path, backend="jax")
    assert "pip install tensorflow tensorflow-datasets" in message and "folder" in message
