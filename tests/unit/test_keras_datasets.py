"""MNIST and its like, from made-up files and through Keras."""

import functools

import keras
import numpy as np
import pytest
from PIL import Image
from tools import assert_refused

from keras_ddpm.data import load_images, load_keras_dataset

pytestmark = pytest.mark.once

SHAPES = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}
NAMES = {"mnist": "0 9", "fashion_mnist": "T-shirt/top Ankle boot", "cifar10": "airplane truck"}


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    """No file, no download: a test that gets images has made them."""

    def refuse():
        raise Exception("URL fetch failure on somewhere")  # what Keras raises, bare as it is

    monkeypatch.delenv("KERAS_DDPM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in SHAPES:
        monkeypatch.setattr(getattr(keras.datasets, name), "load_data", refuse)


def make_arrays(name, train=12):
    """Random images whose labels count 0, 1, … 9, 0, 1, …; CIFAR-10 keeps labels in a column."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", train), ("test", 4)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, *SHAPES[name]), "uint8")
        labels = (np.arange(count) % 10).astype("uint8")
        arrays[f"y_{split}"] = labels[:, None] if name == "cifar10" else labels
    return arrays


def save(folder, name, train=12, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**make_arrays(name, train), **changes}
    np.savez(folder / f"{name}.npz", **{key: a for key, a in arrays.items() if a is not None})
    return arrays


@pytest.mark.parametrize("how", ["file", "download"])
@pytest.mark.parametrize("name", SHAPES)
def test_images_of_their_own_size_stay_as_they_are(tmp_path, monkeypatch, name, how):
    arrays = make_arrays(name) if how == "download" else save(tmp_path, name)
    if how == "download":
        parts = tuple((arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
        monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: parts)
    side, channels = SHAPES[name][0], 3 if name == "cifar10" else 1
    for split, part, count in ((None, "train", None), ("test", "test", 3)):
        found = load_images(name, split, side, channels, data_dir=tmp_path, num_images=count)
        expected = arrays[f"x_{part}"].reshape(-1, side, side, channels)
        np.testing.assert_array_equal(found.images, expected[:count])
        np.testing.assert_array_equal(found.labels, arrays[f"y_{part}"].ravel()[:count])
        assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32
    assert f"{found.class_names[0]} {found.class_names[-1]}" == NAMES[name]
    assert len(set(found.class_names)) == 10


def test_28_to_32_is_padded_with_black(tmp_path):
    expected = np.zeros((12, 32, 32), "uint8")
    expected[:, 2:30, 2:30] = save(tmp_path, "fashion_mnist")["x_train"]
    for channels in (1, 3):
        images = load_images("fashion_mnist", None, 32, channels, data_dir=tmp_path).images
        np.testing.assert_array_equal(images, np.stack([expected] * channels, axis=-1))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_sizes_and_channels_change_as_those_of_folders_do(tmp_path, name):
    (tmp_path / name).mkdir()
    for i, image in enumerate(save(tmp_path, name)["x_train"]):
        Image.fromarray(image).save(tmp_path / name / f"{i:03}.png")
    for size, channels in ((14, 1), (64, 3), ((32, 28), 3)):
        found = load_images(name, None, size, channels, data_dir=tmp_path)
        folder = load_images(tmp_path / name, None, size, channels)
        np.testing.assert_array_equal(found.images, folder.images)


def test_a_file_is_found_by_path_data_dir_and_environment(tmp_path, monkeypatch):
    def count(name, **options):
        return len(load_images(name, image_size=28, **options))

    for folder, number in (("path", 1), ("given", 2), ("environment", 3)):
        save(tmp_path / folder, "mnist", train=number)
    monkeypatch.setenv("KERAS_DDPM_DATA", str(tmp_path / "environment"))
    assert count("mnist") == count("mnist.npz") == 3
    assert count("mnist", data_dir=tmp_path) == 3  # there is none in this folder itself
    for name in ("mnist", "mnist.npz"):
        assert count(name, data_dir=tmp_path / "given") == 2
    assert count("path/mnist.npz") == count(tmp_path / "path" / "mnist.npz") == 1
    with pytest.raises(ValueError, match="no file nowhere/mnist.npz nor .*given.*nor .*environ"):
        count("nowhere/mnist.npz", data_dir=tmp_path / "given")
    monkeypatch.delenv("KERAS_DDPM_DATA")  # and without a file the message says where it goes
    with pytest.raises(RuntimeError, match="URL fetch.*mnist.npz.*x_test.*data_dir.*KERAS_DDPM"):
        load_images("mnist", data_dir=tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    save(tmp_path, "mnist")
    path = tmp_path / "mnist.npz"
    good = path.read_bytes()
    flipped = good[:100] + bytes(255 - b for b in good[100:900]) + good[900:]
    for bad in (b"", good[: len(good) // 2], flipped):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="mnist.npz is damaged"):
            load_images("mnist", data_dir=tmp_path)


def test_a_file_of_another_layout_is_an_error(tmp_path):
    for array, value, match in (
        ("x_train", None, "without the arrays.*x_train"),
        ("x_train", np.zeros((12, 32, 32, 3), "uint8"), r"32, 32, 3.*\(n, 28, 28\)"),
        ("x_train", np.zeros((12, 28, 28)), "float64.*uint8"),
        ("x_train", np.zeros((0, 28, 28), "uint8"), r"\(0, 28, 28\)"),
        ("y_train", np.zeros(11, "uint8"), r"labels of .*shape \(11,\)"),
        ("y_train", np.zeros(12), "labels of .*must hold ints"),
        ("y_train", np.full(12, 10), r"labels of .*to 10, .*\[0, 9\]"),
    ):
        save(tmp_path, "mnist", **{array: value})
        with pytest.raises((TypeError, ValueError), match=match) as caught:
            load_images("mnist", data_dir=tmp_path)
        assert "mnist.npz" in str(caught.value)
        load_images("mnist", "test", data_dir=tmp_path)  # the other split is whole


def test_wrong_arguments_are_named():
    load_mnist = functools.partial(load_keras_dataset, "mnist")
    assert_refused(load_mnist, ValueError, split=("validation", "train[:50%]"), image_size=(0,))
    assert_refused(load_mnist, ValueError, channels=(2,), num_images=(0,))
    assert_refused(load_keras_dataset, ValueError, name=("kmnist.npz",))
    assert_refused(load_keras_dataset, TypeError, name=(3, None))
