"""MNIST and its like, from made-up files, through Keras, and the real one where it is at hand."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ddpm.data import load_images, load_keras_dataset

pytestmark = pytest.mark.once

SHAPES = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}
REAL_MNIST = Path(os.environ.get("KERAS_DDPM_DATA") or ".", "mnist.npz")


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    """No file, no download: a test that gets images has made them."""

    def refuse():
        raise Exception("URL fetch failure on somewhere")  # what Keras raises, bare as it is

    monkeypatch.delenv("KERAS_DDPM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in SHAPES:
        monkeypatch.setattr(getattr(keras.datasets, name), "load_data", refuse)


def make_arrays(name, train=12, test=4):
    """Random images whose labels count 0, 1, … 9, 0, 1, …; CIFAR-10 keeps labels in a column."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, *SHAPES[name]), "uint8")
        labels = (np.arange(count) % 10).astype("uint8")
        arrays[f"y_{split}"] = labels[:, None] if name == "cifar10" else labels
    return arrays


def save(folder, name, arrays=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**(arrays or make_arrays(name)), **changes}
    np.savez(folder / f"{name}.npz", **{key: a for key, a in arrays.items() if a is not None})
    return arrays


@pytest.mark.parametrize("name", SHAPES)
def test_images_of_their_own_size_stay_as_they_are(tmp_path, name):
    arrays = save(tmp_path, name)
    side = SHAPES[name][0]
    channels = 3 if name == "cifar10" else 1
    for split, part in ((None, "train"), ("train", "train"), ("test", "test")):
        found = load_images(name, split, side, channels, data_dir=tmp_path)
        expected = arrays[f"x_{part}"].reshape(-1, side, side, channels)
        np.testing.assert_array_equal(found.images, expected)
        np.testing.assert_array_equal(found.labels, arrays[f"y_{part}"].ravel())
        assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32
    assert len(found.label_names) == 10
    few = load_images(name, image_size=side, channels=channels, data_dir=tmp_path, num_images=3)
    np.testing.assert_array_equal(few.images, arrays["x_train"][:3].reshape(few.images.shape))
    assert few.labels.tolist() == [0, 1, 2]


def test_label_names_are_the_published_ones(tmp_path):
    names = {}
    for name in SHAPES:
        save(tmp_path, name)
        names[name] = load_images(name, image_size=28, data_dir=tmp_path).label_names
    assert names["mnist"] == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert names["fashion_mnist"][0] == "T-shirt/top" and names["fashion_mnist"][9] == "Ankle boot"
    assert names["cifar10"][0] == "airplane" and names["cifar10"][9] == "truck"
    assert all(len(set(of_set)) == 10 for of_set in names.values())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("channels", [1, 3])
def test_28_to_32_is_padded_with_black(tmp_path, name, channels):
    arrays = save(tmp_path, name)
    for size in (32, (32, 32)):
        images = load_images(name, None, size, channels, data_dir=tmp_path).images
        assert images.shape == (12, 32, 32, channels)
        for channel in range(channels):
            np.testing.assert_array_equal(images[:, 2:30, 2:30, channel], arrays["x_train"])
        images[:, 2:30, 2:30] = 0
        assert not images.any()


@pytest.mark.parametrize("size", [14, 64, (28, 14), (32, 28)])
def test_other_sizes_are_cropped_and_resized_as_folders_are(tmp_path, size):
    for name in ("mnist", "cifar10"):
        arrays = save(tmp_path, name)
        for i, image in enumerate(arrays["x_train"]):
            path = tmp_path / name / f"{i:03}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
        for channels in (1, 3):
            found = load_images(name, None, size, channels, data_dir=tmp_path)
            folder = load_images(tmp_path / name, None, size, channels)
            np.testing.assert_array_equal(found.images, folder.images)


def test_colour_turns_grey_as_pillow_does_and_grey_is_repeated(tmp_path):
    arrays = save(tmp_path, "cifar10")
    grey = load_images("cifar10", image_size=32, channels=1, data_dir=tmp_path).images
    assert grey.shape == (12, 32, 32, 1) and grey.dtype == np.uint8
    for ours, image in zip(grey, arrays["x_train"]):
        np.testing.assert_array_equal(ours[..., 0], Image.fromarray(image).convert("L"))
    save(tmp_path, "mnist")
    colour = load_images("mnist", image_size=28, channels=3, data_dir=tmp_path).images
    assert colour.shape == (12, 28, 28, 3)
    assert (colour == colour[..., :1]).all()


def test_a_file_is_found_by_path_data_dir_and_environment(tmp_path, monkeypatch):
    def count(name, **options):
        return len(load_images(name, image_size=28, **options))

    for folder, number in (("path", 1), ("given", 2), ("environment", 3)):
        save(tmp_path / folder, "mnist", make_arrays("mnist", train=number))
    monkeypatch.setenv("KERAS_DDPM_DATA", str(tmp_path / "environment"))
    assert count("mnist") == count("mnist.npz") == 3
    assert count("mnist", data_dir=tmp_path) == 3  # there is none in this folder itself
    assert count("mnist", data_dir=tmp_path / "given") == 2
    assert count("mnist.npz", data_dir=tmp_path / "given") == 2
    assert count("path/mnist.npz") == count(tmp_path / "path" / "mnist.npz") == 1
    assert count("given/mnist.npz", data_dir=tmp_path / "path") == 2
    with pytest.raises(ValueError, match="no file nowhere/mnist.npz nor .*given.*nor .*environ"):
        count("nowhere/mnist.npz", data_dir=tmp_path / "given")


@pytest.mark.parametrize("name", SHAPES)
def test_keras_downloads_what_is_not_at_hand(tmp_path, monkeypatch, name):
    arrays = make_arrays(name)
    parts = tuple((arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: parts)
    size = SHAPES[name][0]
    downloaded = {s: load_images(name, s, size, data_dir=tmp_path) for s in ("train", "test")}
    save(tmp_path, name)
    for split, image_set in downloaded.items():
        from_file = load_images(name, split, size, data_dir=tmp_path)
        np.testing.assert_array_equal(image_set.images, from_file.images)
        np.testing.assert_array_equal(image_set.labels, from_file.labels)
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", None)  # files come first
    load_images(name, data_dir=tmp_path, num_images=2)


def test_without_network_the_message_says_where_the_file_goes(tmp_path):
    with pytest.raises(RuntimeError, match="URL fetch.*mnist.npz.*x_test.*data_dir.*KERAS_DDPM"):
        load_images("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("how", ["garbage", "truncated", "flipped", "packed", "empty", "npy"])
def test_a_damaged_file_is_named(tmp_path, how):
    path = tmp_path / "mnist.npz"
    arrays = make_arrays("mnist")
    arrays["x_train"] //= 64  # random bytes would not be compressed
    (np.savez_compressed if how == "packed" else np.savez)(path, **arrays)
    good = path.read_bytes()
    flipped = good[:100] + bytes(255 - b for b in good[100:900]) + good[900:]
    np.save(tmp_path / "one.npy", np.zeros(3))
    damaged = {
        "garbage": b"no images",
        "truncated": good[: len(good) // 2],
        "flipped": flipped,
        "packed": flipped,
        "empty": b"",
        "npy": (tmp_path / "one.npy").read_bytes(),
    }
    path.write_bytes(damaged[how])
    with pytest.raises(ValueError, match="mnist.npz is damaged"):
        load_images("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    "name, changes, match",
    [
        ("mnist", {"x_train": None}, "must hold.*x_train"),
        ("mnist", {"y_train": None}, "must hold.*y_train"),
        ("mnist", {"x_train": np.zeros((12, 32, 32, 3), "uint8")}, r"\(n, 28, 28\).*32, 32, 3"),
        ("mnist", {"x_train": np.zeros((12, 28, 28))}, "uint8.*float64"),
        ("mnist", {"x_train": np.zeros((0, 28, 28), "uint8")}, r"\(0, 28, 28\)"),
        ("mnist", {"x_train": np.uint8(7)}, r"shape \(\)"),
        ("cifar10", {"x_train": np.zeros((12, 3, 32, 32), "uint8")}, r"3, 32, 32"),
        ("mnist", {"y_train": np.zeros(11, "uint8")}, "labels must be 12 ints.*11"),
        ("mnist", {"y_train": np.zeros((12, 10), "uint8")}, r"\(12, 10\)"),
        ("mnist", {"y_train": np.zeros(12)}, "labels must be 12 ints.*float64"),
        ("mnist", {"y_train": np.full(12, 10)}, r"labels must lie in \[0, 9\], got 10"),
        ("mnist", {"y_train": np.full(12, -1)}, r"labels must lie in \[0, 9\], got -1"),
    ],
    ids=str,
)
def test_a_file_of_another_layout_is_an_error(tmp_path, name, changes, match):
    save(tmp_path, name, **changes)
    with pytest.raises(ValueError, match=match):
        load_images(name, data_dir=tmp_path)
    load_images(name, "test", data_dir=tmp_path)  # the other split is whole


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"split": "validation"}, "split='validation'.*test.*train"),
        ({"split": "train[:50%]"}, "split"),
        ({"image_size": 0}, "image_size"),
        ({"channels": 2}, "channels"),
        ({"num_images": 0}, "num_images"),
        ({"name": "kmnist.npz"}, "'kmnist' is unknown.*cifar10.*fashion_mnist.*mnist"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, match):
    arguments = {"name": "mnist", **arguments}
    with pytest.raises(ValueError, match=match):
        load_images(**arguments)
    with pytest.raises(ValueError, match=match):
        load_keras_dataset(**arguments)


@pytest.mark.skipif(
    not REAL_MNIST.is_file(),
    reason=f"the real MNIST was NOT checked: there is no {REAL_MNIST}, set KERAS_DDPM_DATA",
)
def test_the_real_mnist_has_the_published_numbers():
    train = load_images(REAL_MNIST, "train", 28, 1)
    test = load_images(REAL_MNIST, "test", 28, 1)
    assert train.images.shape == (60000, 28, 28, 1) and train.images.dtype == np.uint8
    assert test.images.shape == (10000, 28, 28, 1) and test.labels.dtype == np.int32
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.labels).tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == counts
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)  # as often quoted
    assert train.images.std() / 255 == pytest.approx(0.3081, abs=5e-5)
