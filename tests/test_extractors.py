"""Feature extractors: what they are fed, what they return, and what they say when they cannot."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_ddpm import DiffusionModel
from keras_ddpm.metrics import (
    InceptionFeatures,
    LeNetFeatures,
    extract,
    frechet_distance,
    kernel_distance,
    lenet,
    statistics_of,
)
from keras_ddpm.plotting import to_uint8


def draw_bars(count, size=28, channels=1, seed=0, noise=40):
    """Bright bars, lying, standing or crossed, in noise: three classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.normal(60, noise, (count, size, size, channels))
    for image, label in zip(images, labels):
        row, column = rng.integers(3, size - 6, 2)
        if label != 1:
            image[row : row + 3] += 150
        if label != 0:
            image[:, column : column + 3] += 150
    return np.clip(images, 0, 255).astype("uint8"), labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features of bars, and the folder where they are kept."""
    folder = tmp_path_factory.mktemp("features")
    return LeNetFeatures(*draw_bars(600), cache=folder), folder


def channel_means(images):
    return images.mean((1, 2))


@pytest.mark.once
def test_extract_goes_in_batches():
    sizes = []

    def extractor(images):
        sizes.append(len(images))
        assert images.dtype == np.uint8
        return channel_means(images)

    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype="uint8")
    expected = channel_means(images)
    np.testing.assert_array_equal(extract(extractor, images, batch_size=4), expected)
    assert sizes == [4, 4, 2]
    np.testing.assert_array_equal(extract(extractor, iter([images[:7], images[7:]])), expected)
    floats = images / np.float32(127.5) - 1
    np.testing.assert_array_equal(extract(extractor, floats), expected)
    for source in (images, np.split(images, [1, 9])):
        statistics = statistics_of(extractor, source, batch_size=3)
        np.testing.assert_allclose(statistics.mean, expected.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(statistics.covariance, np.cov(expected.T), rtol=1e-12)


@pytest.mark.once
@pytest.mark.parametrize("collect", [extract, statistics_of])
def test_extract_refuses(collect):
    images = np.zeros((4, 4, 4, 3), "uint8")
    for wrong in (images[0], images[:0], np.zeros((4, 4, 4, 2), "uint8")):
        with pytest.raises(ValueError, match=r"images must be \(n, height, width, 1 or 3\)"):
            collect(channel_means, wrong)
    with pytest.raises(ValueError, match="got none"):
        collect(channel_means, [])
    with pytest.raises(TypeError, match="int64"):
        collect(channel_means, images.astype("int64"))
    with pytest.raises(ValueError, match="NaN"):
        collect(channel_means, images * np.float32("nan"))
    with pytest.raises(ValueError, match="batch_size"):
        collect(channel_means, images, batch_size=0)
    with pytest.raises(ValueError, match="3 rows for 4 images"):
        collect(lambda images: channel_means(images)[1:], images)
    with pytest.raises(ValueError, match="extractor's output must be 2-D"):
        collect(lambda images: images, images)

    def fails_later(images):
        return np.where(images.max() > 0, np.nan, channel_means(images))

    images[2:] = 9
    with pytest.raises(ValueError, match="extractor's output holds NaN .* first in row 2"):
        collect(fails_later, images, batch_size=2)


def test_lenet_is_the_one_of_its_docstring(trained):
    features, _ = trained
    assert lenet._build((28, 28, 1), 10, seed=0).count_params() == 44_426
    images, labels = draw_bars(300, seed=1)
    found = features(images)
    assert found.shape == (300, 84) and found.dtype == np.float32
    assert found.std(axis=0).min() > 0
    assert features.accuracy(images, labels) > 0.9
    np.testing.assert_array_equal(found, features(images / np.float32(127.5) - 1))


@pytest.mark.once
def test_lenet_reads_digits_and_those_of_the_preset():
    """A thirtieth of MNIST; with a sixth the accuracy is 0.98."""
    path = Path(os.environ.get("KERAS_DDPM_DATA", ""), "mnist.npz")
    if not path.is_file():
        pytest.skip("KERAS_DDPM_DATA is no folder with mnist.npz")
    with np.load(path) as mnist:
        features = LeNetFeatures(mnist["x_train"][:2000, ..., None], mnist["y_train"][:2000])
        assert features.accuracy(mnist["x_test"][..., None], mnist["y_test"]) > 0.93
    labels = np.arange(100) % 10
    model = DiffusionModel.from_preset("mnist_28")
    drawn = model.generate(labels=labels, sampler="dpm_solver++", eta=1.0, steps=20, seed=0)
    assert features.accuracy(drawn, labels) > 0.93


def test_lenet_is_kept_in_its_cache(trained, monkeypatch):
    features, folder = trained
    images, labels = draw_bars(600)
    [path] = folder.iterdir()
    assert path.suffix == ".keras"
    with monkeypatch.context() as patch:
        patch.setattr(lenet, "_train", None)  # trained again, it would fail
        again = LeNetFeatures(images / np.float32(127.5) - 1, labels, cache=folder)
    np.testing.assert_array_equal(again(images[:9]), features(images[:9]))

    monkeypatch.setattr(lenet, "EPOCHS", 1)
    for other in ((images[:60], labels[:60]), (images[:60], labels[:60], 1)):
        LeNetFeatures(*other, cache=folder)
    assert len(list(folder.iterdir())) == 3


def test_lenet_follows_from_its_seed_alone(monkeypatch, dtype_policy):
    monkeypatch.setattr(lenet, "EPOCHS", 1)
    images, labels = draw_bars(130, size=20, channels=3)
    first = LeNetFeatures(images, labels, seed=3)
    keras.utils.set_random_seed(99)
    dtype_policy("mixed_bfloat16")  # of the model that is measured, not of the measure
    second, other = LeNetFeatures(images, labels, seed=3), LeNetFeatures(images, labels, seed=4)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    np.testing.assert_array_equal(first(images), second(images))
    assert np.abs(first(images) - other(images)).max() > 1e-3


def test_lenet_tells_good_from_bad(trained):
    """More noise, and classes that are missing, are farther in both distances."""
    features, _ = trained
    images, labels = draw_bars(600, seed=2)
    reference = extract(features, draw_bars(600, seed=3)[0])
    noise = np.random.default_rng(0).normal(0, 1, images.shape)
    noisy = [np.clip(images + s * noise, 0, 255).astype("uint8") for s in (0, 30, 60, 120)]
    fewer = [images[labels < number] for number in (3, 2, 1)]
    for series in (noisy, fewer):
        found = [extract(features, x) for x in series]
        frechet = [frechet_distance(x, reference) for x in found]
        kernel = [kernel_distance(x, reference)[0] for x in found]
        assert frechet == sorted(frechet) and kernel == sorted(kernel)


@pytest.mark.once
@pytest.mark.parametrize(
    "images, labels, options, error, message",
    [
        (np.zeros((4, 28, 28), "uint8"), np.arange(4), {}, ValueError, "height, width"),
        (np.zeros((4, 15, 28, 1), "uint8"), np.arange(4), {}, ValueError, "at least 16 x 16"),
        (np.zeros((4, 28, 28, 1), "int32"), np.arange(4), {}, TypeError, "int32"),
        (np.zeros((4, 28, 28, 1), "uint8"), np.arange(3), {}, ValueError, "4 ints, one an image"),
        (np.zeros((4, 28, 28, 1), "uint8"), np.ones(4), {}, ValueError, "got float64"),
        (np.zeros((4, 28, 28, 1), "uint8"), np.zeros(4, "int"), {}, ValueError, "two classes"),
        (np.zeros((4, 28, 28, 1), "uint8"), np.arange(4) - 1, {}, ValueError, "from 0"),
        (np.zeros((4, 28, 28, 1), "uint8"), np.arange(4), {"seed": -1}, ValueError, "seed"),
    ],
)
def test_lenet_refuses(images, labels, options, error, message):
    with pytest.raises(error, match=message):
        LeNetFeatures(images, labels, **options)


def test_lenet_refuses_other_images(trained, tmp_path):
    features, _ = trained
    with pytest.raises(ValueError, match=r"\(n, 28, 28, 1\) like those"):
        features(np.zeros((2, 28, 28, 3), "uint8"))
    with pytest.raises(ValueError, match="2 ints, one an image"):
        features.accuracy(np.zeros((2, 28, 28, 1), "uint8"), [[0], [0]])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        LeNetFeatures(*draw_bars(6), cache=tmp_path / "file")


def open_inception(include_top, weights, pooling):
    """In the place of InceptionV3: its features are what it is fed."""
    assert (include_top, weights, pooling) == (False, "imagenet", "avg")
    images = keras.Input((299, 299, 3))
    return keras.Model(images, keras.layers.Flatten()(images))


def test_inception_is_fed_as_it_was_trained(monkeypatch):
    """299 x 299, in [-1, 1], and grey as three equal channels."""
    monkeypatch.setattr(keras.applications, "InceptionV3", open_inception)
    features = InceptionFeatures()
    floats = np.random.default_rng(0).uniform(-1, 1, (2, 23, 23, 3)).astype("float32")
    fed = features(floats).reshape(2, 299, 299, 3)
    # 299 = 13 · 23: the middle of each square of 13 x 13 is the pixel itself.
    np.testing.assert_allclose(fed[:, 6::13, 6::13], to_uint8(floats) / 127.5 - 1, atol=1e-4)
    grey = floats[..., :1]
    np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=-1)))
    # Antialias: a fine chessboard becomes grey, where picking pixels would keep black or white.
    board = (np.indices((897, 897)).sum(0) % 2 * 255).astype("uint8")[None, ..., None]
    inner = features(board).reshape(299, 299, 3)[5:-5, 5:-5]
    assert np.abs(inner).max() < 0.05


@pytest.mark.once
def test_inception_without_a_network(monkeypatch, tmp_path):
    def no_network(**kwargs):
        raise Exception("URL fetch failure on https://...: None -- no address")

    monkeypatch.setattr(keras.applications, "InceptionV3", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(OSError, match="Download https://.*notop.h5 ") as caught:
        InceptionFeatures()
    assert str(tmp_path / "models") in str(caught.value)
    with pytest.raises(Exception, match="^URL fetch failure"):
        InceptionFeatures(weights="other.h5")


@pytest.mark.once
def test_inception_of_an_unknown_file(tmp_path):
    with pytest.raises(ValueError, match="none.h5"):
        InceptionFeatures(weights=str(tmp_path / "none.h5"))
