"""TensorFlow Datasets by name: on disk, mocked, unknown, and out of reach."""

import functools

import keras
import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets", reason="TensorFlow Datasets is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from keras_ddpm.data import load_images  # noqa: E402

pytestmark = pytest.mark.once


class TinyFlowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Four images to train with, of growing brightness and two classes, and two to test."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE, DTYPE, CLASSES = (12, 36, 3), np.uint8, ("rose", "tulip")
    STEP = 1  # a level of 255 is this times 255, a little more in the largest range

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE)}
        if self.CLASSES:
            features["label"] = tfds.features.ClassLabel(names=self.CLASSES)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.zeros(self.SHAPE, self.DTYPE)
            level = 50 * (i + 1)
            image[:, 12:24] = level * self.STEP + (self.STEP == 257) * 100
            yield i, {"image": image} | ({"label": i % 2} if self.CLASSES else {})


class TinyGrey(TinyFlowers, skip_registration=True):
    SHAPE, DTYPE, CLASSES, STEP = (12, 36, 1), np.uint16, (), 257


class TinyCamera(TinyGrey, skip_registration=True):
    """Bytes in integers of 16 bits, as some cameras write them."""

    STEP = 1


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyFlowers, TinyGrey, TinyCamera):
        builder(data_dir=folder).download_and_prepare()
    return folder


load = functools.partial(load_images, image_size=8)


def test_a_data_set_on_disk_is_cropped_resized_and_labelled(data_dir):
    image_set = load("tiny_flowers", data_dir=data_dir)
    assert image_set.images.shape == (4, 8, 8, 3) and image_set.images.dtype == np.uint8
    middle = image_set.images[:, 4, 4, 0]
    assert sorted(middle.tolist()) == [50, 100, 150, 200]
    assert image_set.images.min() > 45  # the dark sides are cropped away
    assert image_set.class_names == ("rose", "tulip") and image_set.labels.dtype == np.int32
    np.testing.assert_array_equal(image_set.labels, (middle // 50 - 1) % 2)


def test_it_is_found_by_path_version_and_environment_in_splits(data_dir, monkeypatch):
    for name in (data_dir / "tiny_flowers", data_dir / "tiny_flowers" / "1.0.0"):
        assert len(load(name)) == 4
    assert len(load("tiny_flowers:1.0.0", data_dir=data_dir)) == 4
    monkeypatch.setenv("KERAS_DDPM_DATA", str(data_dir))
    for split, count in ((None, 4), ("train[1:]+test", 5)):
        assert len(load("tiny_flowers", split)) == count
    assert len(load("tiny_flowers", num_images=3)) == 3
    with pytest.raises(ValueError, match="dev"):
        load("tiny_flowers", "dev")


@pytest.mark.parametrize("name", ["tiny_grey", "tiny_camera"])
def test_grey_16_bit_images_without_labels(data_dir, name):
    for channels in (1, 3):
        image_set = load(name, image_size=(6, 9), channels=channels, data_dir=data_dir)
        assert image_set.images.shape == (4, 6, 9, channels)
        assert (image_set.images[:, 0, 0] == 0).all()  # this wide crop keeps some of the sides
        assert sorted(image_set.images[:, 3, 4, -1].tolist()) == [50, 100, 150, 200]
        assert image_set.labels is None


def test_oxford_flowers102_by_name(tmp_path):
    with tfds.testing.mock_data(num_examples=5):
        flowers = load("oxford_flowers102", "train+test", data_dir=tmp_path)
    assert flowers.images.shape == (5, 8, 8, 3)
    assert len(flowers.class_names) == 102 and flowers.class_names[0] == "pink primrose"


def test_what_is_no_data_set_of_images_is_named(data_dir, monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
    for name, match in (
        ("oxford_flower102", "did you mean 'oxford_flowers102'.*folder"),
        ("drawn_flower", "did you mean 'drawn_flowers'"),
        ("./no/such/folder", "neither a folder"),
        ("tiny_shakespeare", '(?s)no "image" feature.*text'),
    ):
        with pytest.raises(ValueError, match=match):
            load(name, data_dir=data_dir)


@pytest.mark.parametrize("error", [ConnectionError("no route"), tfds.download.DownloadError("404")])
def test_no_network_says_what_to_do_instead(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    (tmp_path / "oxford_flowers102").mkdir()  # as an interrupted download leaves it
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="oxford_flowers102.*folder.*drawn_flowers") as caught:
        load("oxford_flowers102", data_dir=tmp_path)
    assert caught.value.__cause__ is error and str(error) in str(caught.value)


def test_the_gpu_is_left_to_the_other_backend(data_dir, monkeypatch):
    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: calls.append(args))
    for backend, expected in (("tensorflow", []), ("jax", [([], "GPU")])):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        load("tiny_flowers", data_dir=data_dir)
        assert calls == expected
