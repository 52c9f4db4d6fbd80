"""Features of images: batches and errors of `extract`, and the classifier of `LeNetFeatures`."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_ddpm import DiffusionModel
from keras_ddpm.data import draw_flowers, load_images
from keras_ddpm.metrics import LeNetFeatures, extract, lenet


def coloured_flowers(count, seed):
    images, labels = draw_flowers(count, image_size=16, seed=seed)
    return images, labels // 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Features of flowers in six colours, and the folder where they are kept."""
    folder = tmp_path_factory.mktemp("features")
    return LeNetFeatures(*coloured_flowers(600, seed=0), cache=folder), folder


def channel_means(images):
    return images.mean((1, 2))


@pytest.mark.once
def test_extract_gives_the_extractor_bytes_in_batches_and_checks_its_features():
    sizes = []

    def extractor(images):
        sizes.append(len(images))
        assert images.dtype == np.uint8
        return channel_means(images).astype("float32")

    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype="uint8")
    for given in (images, images / np.float32(127.5) - 1):
        found = extract(extractor, given, batch_size=4)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, channel_means(images).astype("float32"))
    assert sizes == [4, 4, 2] * 2
    images[3] = 0
    for extractor, match in (
        (lambda x: channel_means(x)[1:], "7 rows for 10 images"),
        (lambda x: np.where(x.any((1, 2)), 1, np.nan), "NaN .* 1 of 10 .* in row 3"),
    ):
        with pytest.raises(ValueError, match=match):
            extract(extractor, images, batch_size=4)


@pytest.mark.once
def test_lenet_is_the_one_of_its_docstring(trained):
    features, (images, labels) = trained[0], coloured_flowers(256, seed=1)
    assert lenet._build((28, 28, 1), 10, seed=0).count_params() == 44_426
    found = features(images)
    assert found.shape == (256, 84) and found.dtype == np.float32
    assert found.std(axis=0).min() > 0
    assert features.accuracy(images, labels) > 0.9
    np.testing.assert_array_equal(found, features(images / np.float32(127.5) - 1))


@pytest.mark.once
def test_lenet_is_kept_in_its_cache(trained, monkeypatch, tmp_path):
    features, folder = trained
    images, labels = coloured_flowers(600, seed=0)
    trainings = []

    def train(*arguments):
        trainings.append(arguments)
        return features.classifier

    monkeypatch.setattr(lenet, "_train", train)
    again = LeNetFeatures(images / np.float32(127.5) - 1, labels, cache=folder)
    np.testing.assert_array_equal(again(images[:9]), features(images[:9]))
    for other in ((images[1:], labels[1:]), (images, 5 - labels), (images, labels, 1)):
        LeNetFeatures(*other, cache=folder)
    monkeypatch.setattr(lenet, "EPOCHS", 1)  # another recipe
    LeNetFeatures(images, labels, cache=folder)
    assert len(trainings) == 4 and len(list(folder.glob("*.keras"))) == 5


def test_lenet_follows_from_its_seed_alone(monkeypatch, dtype_policy):
    monkeypatch.setattr(lenet, "EPOCHS", 1)
    images, labels = coloured_flowers(80, seed=0)
    first = LeNetFeatures(images, labels, seed=3).classifier.get_weights()
    keras.utils.set_random_seed(99)
    dtype_policy("mixed_bfloat16")  # of the model that is measured, not of the measure
    second = LeNetFeatures(images, labels, seed=3).classifier.get_weights()
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    three, four = (lenet._build((16, 16, 3), 6, seed).get_weights()[0] for seed in (3, 4))
    assert np.abs(three - four).max() > 0.01
    assert 0 < np.abs(first[0] - three).max() < 0.01  # trained a little


@pytest.mark.once
@pytest.mark.slow
def test_lenet_reads_digits_and_those_of_the_preset():
    """Trained on a thirtieth of MNIST; on a sixth the accuracy is 0.98."""
    path = Path(os.environ.get("KERAS_DDPM_DATA", ""), "mnist.npz")
    if not path.is_file():
        pytest.skip("there is no KERAS_DDPM_DATA/mnist.npz")
    train = load_images(path, "train", 28, 1, num_images=2000)
    test = load_images(path, "test", 28, 1)
    features = LeNetFeatures(train.images, train.labels)
    assert len(test) == 10_000 and features.accuracy(test.images, test.labels) > 0.93
    labels = np.arange(100) % 10
    model = DiffusionModel.from_preset("mnist_28")
    drawn = model.generate(labels=labels, sampler="dpm_solver++", eta=1.0, steps=20, seed=0)
    assert features.accuracy(drawn, labels) > 0.93


@pytest.mark.once
def test_a_damaged_cache_of_lenet_is_named(tmp_path):
    images, labels = np.zeros((8, 16, 16, 1), "uint8"), np.arange(8) % 2
    LeNetFeatures(images, labels, cache=tmp_path)
    (path,) = tmp_path.glob("lenet_*.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    other = path.read_bytes()
    for content in (other, other[:-100], b"", b"PK\5\6" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{path} is damaged \(.*\). Delete it"):
            LeNetFeatures(images, labels, cache=tmp_path)
