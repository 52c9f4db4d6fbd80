"""The embedded data set: the same picture every time, and a label that can be read back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from keras_ddpm.data import drawn_flowers
from keras_ddpm.data.drawn_flowers import (
    COLOURS,
    LABEL_NAMES,
    PETALS,
    draw_flowers,
)
from keras_ddpm.data.read_flowers import describe_flowers

pytestmark = pytest.mark.once
CLASSES = len(LABEL_NAMES)
few = settings(max_examples=15, deadline=None)


def share_right(images, labels):
    """Share of pictures with the right colour, and with the right number of petals."""
    found, _ = describe_flowers(images)
    colour = (found >= 0) & (found // len(PETALS) == labels // len(PETALS))
    petals = (found >= 0) & (found % len(PETALS) == labels % len(PETALS))
    return colour.mean(), petals.mean()


def ellipse_flower(petals, colour=(220, 30, 30), background=(60, 100, 50), size=32, turn=0.3):
    """A flower by another hand: overlapping ellipses from Pillow, with no centre disc."""
    big = size * 8
    picture = Image.new("RGB", (big, big), background)
    for k in range(petals):
        layer = Image.new("L", (big, big))
        half = big * min(0.11, 0.55 / petals)
        box = [big / 2 - half, big * 0.08, big / 2 + half, big * 0.5]
        ImageDraw.Draw(layer).ellipse(box, fill=255)
        layer = layer.rotate(np.degrees(turn) + 360 * k / petals)
        picture.paste(colour, mask=layer)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


# ---- drawing ---------------------------------------------------------------------------------


def test_names_follow_the_label_formula():
    assert len(set(LABEL_NAMES)) == CLASSES == len(COLOURS) * len(PETALS)
    for c, colour in enumerate(COLOURS):
        for p, petals in enumerate(PETALS):
            assert LABEL_NAMES[c * len(PETALS) + p] == f"{colour} {petals}-petalled"


@pytest.mark.parametrize("size, shape", [(24, (24, 24)), (32, (32, 32)), ((28, 40), (28, 40))])
def test_shape_dtype_and_range(size, shape):
    images, labels = draw_flowers(30, size)
    assert images.shape == (30, *shape, 3) and images.dtype == np.uint8
    assert labels.shape == (30,) and labels.dtype == np.int32
    assert labels.min() >= 0 and labels.max() < CLASSES
    assert images.min() < 60 and images.max() > 220  # the range is used, not just allowed
    assert (images.std(axis=(1, 2)) > 5).all()  # and no picture is flat


@few
@given(seed=st.integers(0, 2**32), short=st.integers(1, 40), more=st.integers(0, 40))
def test_a_short_data_set_is_the_beginning_of_a_longer_one(seed, short, more):
    images, labels = draw_flowers(short, 24, seed)
    longer_images, longer_labels = draw_flowers(short + more, 24, seed)
    np.testing.assert_array_equal(images, longer_images[:short])
    np.testing.assert_array_equal(labels, longer_labels[:short])


def test_prefix_holds_across_chunks():
    # 600 pictures are painted in many chunks; the first 7 must not notice.
    np.testing.assert_array_equal(draw_flowers(600)[0][:7], draw_flowers(7)[0])


def test_seeds_and_pictures_differ():
    labels = np.zeros(20, int)
    first, second = draw_flowers(20, seed=0, labels=labels)[0], draw_flowers(20, 32, 1, labels)[0]
    assert len(np.unique(np.concatenate([first, second]).reshape(40, -1), axis=0)) == 40
    assert (draw_flowers(96, 24, 0)[1] != draw_flowers(96, 24, 1)[1]).any()


@few
@given(seed=st.integers(0, 2**32), n=st.integers(1, 130))
def test_every_beginning_is_balanced(seed, n):
    counts = np.bincount(draw_flowers(n, 24, seed)[1], minlength=CLASSES)
    assert counts.max() - counts.min() <= 1


def test_label_order_is_shuffled():
    labels = draw_flowers(4 * CLASSES, 24)[1].reshape(4, CLASSES)
    assert len(np.unique(labels, axis=0)) == 4
    assert not (labels == np.arange(CLASSES)).all(axis=1).any()


@few
@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=30))
def test_requested_labels_are_returned(wanted):
    _, labels = draw_flowers(len(wanted), 24, labels=wanted)
    assert labels.tolist() == wanted and labels.dtype == np.int32


def test_requested_labels_are_drawn_and_leave_the_other_pictures_alone():
    wanted = np.arange(CLASSES)
    images, _ = draw_flowers(CLASSES, 32, 3, wanted)
    found, _ = describe_flowers(images)
    assert (found == wanted).mean() > 0.95
    changed = wanted.copy()
    changed[5] = 17
    differs = (draw_flowers(CLASSES, 32, 3, changed)[0] != images).any(axis=(1, 2, 3))
    assert np.flatnonzero(differs).tolist() == [5]


def test_default_labels_can_be_asked_for_again():
    images, labels = draw_flowers(30, 24, 4)
    np.testing.assert_array_equal(draw_flowers(30, 24, 4, labels)[0], images)


# ---- reading back ----------------------------------------------------------------------------


@pytest.mark.parametrize("size, n", [(32, 800), (64, 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_colour_and_petals_are_read_back(size, n, seed):
    colour, petals = share_right(*draw_flowers(n, size, seed))
    assert colour >= 0.99 and petals >= 0.99


@pytest.mark.parametrize("size", [32, 64])
def test_every_class_is_read_back(size):
    labels = np.repeat(np.arange(CLASSES), 6)
    found, _ = describe_flowers(draw_flowers(len(labels), size, 8, labels)[0])
    assert (found == labels).reshape(CLASSES, 6).mean(axis=1).min() >= 0.8


@pytest.mark.parametrize("size", [16, 24, 48, (32, 48), (70, 50)])
def test_other_sizes_are_read_back(size):
    assert min(share_right(*draw_flowers(150, size))) >= 0.97


@pytest.mark.parametrize("size, n", [(32, 600), (64, 200)])
def test_mild_noise_is_tolerated(size, n):
    images, labels = draw_flowers(n, size, 5)
    noise = np.random.default_rng(0).normal(0, 8, images.shape)
    noisy = np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)
    assert min(share_right(noisy, labels)) >= 0.97


def test_blur_is_tolerated():
    images, labels = draw_flowers(400, 32, 6)
    around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge").astype(float)
    blurred = sum(around[:, i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9
    assert min(share_right(blurred.astype(np.uint8), labels)) >= 0.97


def test_turning_and_mirroring_keep_the_label():
    images, labels = draw_flowers(200, 32, 7)
    for moved in (np.rot90(images, axes=(1, 2)), images[:, ::-1], images[:, :, ::-1]):
        assert min(share_right(moved, labels)) >= 0.98


def test_float_pictures_read_like_bytes():
    images, _ = draw_flowers(100, 32, 9)
    labels, confidence = describe_flowers(images)
    for dtype in (np.float32, np.float64):
        as_float = (images / 127.5 - 1).astype(dtype)
        float_labels, float_confidence = describe_flowers(as_float)
        np.testing.assert_array_equal(float_labels, labels)
        np.testing.assert_array_equal(float_confidence, confidence)


def test_a_picture_is_read_alone_as_in_a_batch():
    images, _ = draw_flowers(150, 32, 10)
    labels, confidence = describe_flowers(images)
    alone = [describe_flowers(image[None]) for image in images[::10]]
    np.testing.assert_array_equal([a[0][0] for a in alone], labels[::10])
    np.testing.assert_allclose([a[1][0] for a in alone], confidence[::10], rtol=1e-4)


def test_confidence_is_a_share_that_falls_with_noise():
    images, _ = draw_flowers(200, 32, 11)
    labels, confidence = describe_flowers(images)
    assert labels.dtype == np.int32 and confidence.dtype == np.float32
    assert (confidence > 0).mean() > 0.98 and confidence.max() <= 1
    noise = np.random.default_rng(0).normal(0, 25, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert describe_flowers(noisy)[1].mean() < confidence.mean() - 0.05


@pytest.mark.parametrize("petals", [3, 4, 5, 6, 7, 8, 9])
def test_flowers_by_another_hand_are_counted(petals):
    images = np.stack([ellipse_flower(petals, turn=turn) for turn in np.linspace(0, 1, 6)])
    expected = LABEL_NAMES.index(f"red {petals}-petalled") if petals in PETALS else -1
    assert (describe_flowers(images)[0] == expected).all()


def no_flowers(kind, n, size):
    rng = np.random.default_rng(0)
    if kind == "coarse noise":
        blocks = rng.integers(0, 256, (n, 4, 4, 3), np.uint8)
        return blocks.repeat(size // 4, 1).repeat(size // 4, 2)
    if kind == "uniform noise":
        return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    if kind == "gaussian noise":
        return np.clip(rng.normal(0, 1, (n, size, size, 3)), -1, 1).astype(np.float32)
    if kind == "flat":
        return np.repeat(rng.integers(0, 256, (n, 1, 1, 3), np.uint8), size, 1).repeat(size, 2)
    table = rng.random((n, drawn_flowers._NUMBERS_PER_IMAGE), np.float32)
    grounds = drawn_flowers._paint(np.zeros(n, int), table, size, size, with_flower=False)
    if kind == "disc":
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        colours = np.rint(255 * drawn_flowers.PETAL_TIP)[rng.integers(0, len(COLOURS), n)]
        return np.where((np.hypot(x, y) < size / 3)[..., None], colours[:, None, None], grounds)
    return grounds


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "kind", ["uniform noise", "gaussian noise", "coarse noise", "flat", "ground", "disc"]
)
def test_no_flower_is_seen_where_there_is_none(kind, size):
    images = no_flowers(kind, 500 if kind == "coarse noise" else 6400 // size, size)
    images = images if kind == "gaussian noise" else images.astype(np.uint8)
    labels, confidence = describe_flowers(images)
    assert (labels == -1).mean() >= 0.99
    assert (confidence[labels == -1] == 0).all()


def test_dots_around_an_empty_middle_are_no_flower():
    picture = np.full((1, 32, 32, 3), (60, 100, 50), np.uint8)
    y, x = np.mgrid[:32, :32] - 15.5
    for angle in np.arange(6) * np.pi / 3:
        picture[0, np.hypot(x - 10 * np.cos(angle), y - 10 * np.sin(angle)) < 2.5] = (220, 30, 30)
    assert describe_flowers(picture)[0] == [-1]


def test_strong_noise_is_averaged_away_in_large_pictures():
    images, labels = draw_flowers(200, 64, 12)
    noise = np.random.default_rng(0).normal(0, 40, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert min(share_right(noisy, labels)) >= 0.95


def test_no_pictures_give_no_labels():
    labels, confidence = describe_flowers(np.zeros((0, 32, 32, 3), np.uint8))
    assert labels.shape == confidence.shape == (0,)


# ---- wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
        ({"num_images": 2.0}, TypeError, "num_images must be an int, got 2.0"),
        ({"num_images": True}, TypeError, "num_images must be an int, got True"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": "x"}, TypeError, "seed must be an int, got 'x'"),
        ({"image_size": 15}, ValueError, "image_size must be at least 16, got 15"),
        ({"image_size": (32, 8)}, ValueError, "image_size must be at least 16, got 8"),
        ({"image_size": (32, 32, 3)}, ValueError, r"\(height, width\), got \(32, 32, 3\)"),
        ({"image_size": 32.0}, TypeError, "image_size must be an int, got 32.0"),
        ({"labels": [0]}, ValueError, r"labels must have shape \(2,\).* got shape \(1,\)"),
        ({"labels": 3}, ValueError, r"labels must have shape \(2,\).* got shape \(\)"),
        (
            {"labels": [0, CLASSES]},
            ValueError,
            f"labels must be in 0..{CLASSES - 1}, got {CLASSES}",
        ),
        ({"labels": [-1, 0]}, ValueError, "labels must be in .* got -1"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels must be ints, got dtype float64"),
    ],
)
def test_wrong_requests_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        draw_flowers(**{"num_images": 2, **arguments})


@pytest.mark.parametrize(
    "images, error, message",
    [
        (np.zeros((32, 32, 3), np.uint8), ValueError, r"images\[None\]; got shape \(32, 32, 3\)"),
        (np.zeros((2, 32, 32, 1), np.uint8), ValueError, r"shape \(n, height, width, 3\)"),
        (np.zeros((2, 12, 32, 3), np.uint8), ValueError, "images must be at least 16 pixels"),
        (np.zeros((2, 32, 32, 3), np.int64), TypeError, "uint8 in 0..255 or float .* int64"),
        (np.full((2, 32, 32, 3), 200.0), ValueError, "images of floats must be in -1..1.*200.0"),
        (np.full((2, 32, 32, 3), np.nan), ValueError, "images of floats must be in -1..1.*nan"),
    ],
)
def test_wrong_pictures_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        describe_flowers(images)
