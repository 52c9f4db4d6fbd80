"""TensorFlow Datasets by name: on disk, mocked, unknown, and out of reach."""

import keras
import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets", reason="TensorFlow Datasets is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from keras_ddpm.data import load_images, load_tfds  # noqa: E402

pytestmark = pytest.mark.once


class TinyFlowers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Four images to train with, of growing brightness and two classes, and two to test."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE, DTYPE, LABELS = (12, 36, 3), np.uint8, ("rose", "tulip")

    def _info(self):
        features = {"image": tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE)}
        if self.LABELS:
            features["label"] = tfds.features.ClassLabel(names=self.LABELS)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            image = np.zeros(self.SHAPE, self.DTYPE)
            image[:, 12:24] = 50 * (i + 1) * (257 if self.DTYPE == np.uint16 else 1)
            yield i, {"image": image} | ({"label": i % 2} if self.LABELS else {})


class TinyGrey(TinyFlowers, skip_registration=True):
    SHAPE, LABELS = (12, 36, 1), ()


class TinyDeep(TinyFlowers, skip_registration=True):
    SHAPE, DTYPE = (12, 36, 1), np.uint16


class TinyClear(TinyFlowers, skip_registration=True):
    SHAPE = (12, 36, 4)


class TinySounds(TinyFlowers, skip_registration=True):
    def _info(self):
        features = tfds.features.FeaturesDict({"sound": np.float32})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, count):
        yield 0, {"sound": 1.0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyFlowers, TinyGrey, TinyDeep, TinyClear, TinySounds):
        builder(data_dir=folder).download_and_prepare()
    return folder


def brightness(image_set):
    return sorted(image_set.images[:, 0, 0, 0].tolist())


def test_a_data_set_on_disk_is_cropped_resized_and_labelled(data_dir):
    image_set = load_images("tiny_flowers", image_size=8, data_dir=data_dir)
    assert image_set.images.shape == (4, 8, 8, 3) and image_set.images.dtype == np.uint8
    assert brightness(image_set) == [50, 100, 150, 200]  # the dark sides are cropped away
    assert image_set.label_names == ("rose", "tulip") and image_set.labels.dtype == np.int32
    classes = np.array(image_set.images[:, 0, 0, 0] // 50 - 1) % 2
    np.testing.assert_array_equal(image_set.labels, classes)
    again = load_tfds("tiny_flowers", data_dir=data_dir, image_size=8)
    np.testing.assert_array_equal(image_set.images, again.images)


def test_found_by_path_version_and_environment(data_dir, monkeypatch):
    for name in (data_dir / "tiny_flowers", data_dir / "tiny_flowers" / "1.0.0"):
        assert len(load_images(name, image_size=8)) == 4
    assert len(load_images("tiny_flowers:1.0.0", image_size=8, data_dir=data_dir)) == 4
    monkeypatch.setenv("KERAS_DDPM_DATA", str(data_dir))
    assert len(load_images("tiny_flowers", image_size=8)) == 4


def test_splits_in_the_syntax_of_tfds(data_dir):
    for split, count in [("test", 2), ("train+test", 6), ("train[:50%]", 2), ("train[1:]+test", 5)]:
        assert len(load_images("tiny_flowers", split, 8, data_dir=data_dir)) == count
    assert len(load_images("tiny_flowers", "train", 8, data_dir=data_dir, num_images=3)) == 3
    with pytest.raises(ValueError, match="dev"):
        load_images("tiny_flowers", "dev", data_dir=data_dir)


@pytest.mark.parametrize("name", ["tiny_grey", "tiny_deep"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_16_bit(data_dir, name, channels):
    image_set = load_images(name, image_size=(6, 9), channels=channels, data_dir=data_dir)
    assert image_set.images.shape == (4, 6, 9, channels)
    assert brightness(image_set) == [0, 0, 0, 0]  # this wide crop keeps some of the sides
    assert sorted(image_set.images[:, 3, 4, -1].tolist()) == [50, 100, 150, 200]
    assert (image_set.labels is None) == (name == "tiny_grey")


def test_transparency_shows_white(data_dir):
    image_set = load_images("tiny_clear", image_size=12, data_dir=data_dir)
    value = np.array([50, 100, 150, 200])
    assert np.abs(brightness(image_set) - np.sort(255 - value + value**2 / 255)).max() <= 1


def test_shrinking_averages():
    from keras_ddpm.data.tfds import _fit

    board = tf.cast(tf.constant(np.indices((64, 64, 1)).sum(0) % 2), tf.float32)
    assert np.abs(_fit(tf, board, 8, 8).numpy().astype(int) - 127.5).max() <= 8
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(_fit(tf, tf.constant(pixels / 255, tf.float32), 8, 8), pixels)


def test_oxford_flowers102_by_name(tmp_path):
    with tfds.testing.mock_data(num_examples=5):
        flowers = load_images("oxford_flowers102", "train+test", 16, data_dir=tmp_path)
    assert flowers.images.shape == (5, 16, 16, 3)
    assert len(flowers.label_names) == 102 and flowers.label_names[0] == "pink primrose"


def test_a_data_set_without_images_is_refused(data_dir):
    with pytest.raises(ValueError, match='(?s)tiny_sounds.*no "image" feature.*sound'):
        load_images("tiny_sounds", data_dir=data_dir)


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("oxford_flower102", "oxford_flowers102"),
        ("drawn_flower", "drawn_flowers"),
        ("./no/such/folder", "none is near"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest, tmp_path):
    with pytest.raises(ValueError, match=f"{name}.*{nearest}.*folder"):
        load_images(name, data_dir=tmp_path)


@pytest.mark.parametrize("error", [ConnectionError("no route"), tfds.download.DownloadError("404")])
def test_no_network_says_what_to_do_instead(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(RuntimeError, match="oxford_flowers102.*folder.*drawn_flowers") as caught:
        load_images("oxford_flowers102", data_dir=tmp_path)
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)


def test_an_interrupted_download_is_not_taken_for_a_folder_of_images(tmp_path, monkeypatch):
    (tmp_path / "oxford_flowers102").mkdir()
    test_no_network_says_what_to_do_instead(tmp_path, monkeypatch, ConnectionError("again"))


def test_the_gpu_is_left_to_the_backend(data_dir, monkeypatch):
    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: calls.append(args))
    load_images("tiny_flowers", image_size=8, data_dir=data_dir)
    assert calls == ([] if keras.backend.backend() == "tensorflow" else [([], "GPU")])
