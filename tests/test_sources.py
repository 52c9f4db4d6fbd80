"""What `fit` takes images from: arrays, datasets of each library, points."""

import keras
import numpy as np
import pytest
from tiny_training import FLOATS, IMAGES, LABELS, fit, make_model

import keras_ddpm
from keras_ddpm import DiffusionModel, GaussianDiffusion

BACKEND = keras.backend.backend()


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(array[4 * index : 4 * index + 4] for array in self.arrays)


def as_tf_data(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(4)


def as_data_loader(*arrays):
    import torch
    from torch.utils import data

    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return data.DataLoader(data.TensorDataset(*tensors), batch_size=4)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize(
    "source",
    [
        Batches,
        pytest.param(as_tf_data, marks=pytest.mark.needs("tensorflow")),
        pytest.param(as_data_loader, marks=pytest.mark.needs("torch")),
    ],
)
def test_every_source_trains_as_numpy_does(source, num_classes):
    arrays = (IMAGES,) if num_classes is None else (IMAGES, LABELS)
    model, reference = (make_model(num_classes=num_classes) for _ in range(2))
    dataset = source(*arrays)
    model.fit(dataset, epochs=2, verbose=0, validation_data=dataset)
    fit(reference, *arrays, epochs=2)
    for ours, theirs in zip(model.network.get_weights(), reference.network.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the thread that tunes is TensorFlow's")
@pytest.mark.parametrize("source", [None, Batches, as_tf_data])
def test_nothing_that_fit_would_wait_for_tunes_the_batches(source, monkeypatch):
    import tensorflow as tf

    tuned, iterate = [], tf.data.Dataset.__iter__

    def look(dataset):
        tuned.append(dataset.options().autotune.enabled)
        return iterate(dataset)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", look)
    data = IMAGES if source is None else source(IMAGES)
    validation = (FLOATS, None) if source is None else source(FLOATS)
    model = make_model()
    model.fit(data, batch_size=4, epochs=2, verbose=0, validation_data=validation)
    model.evaluate(data, batch_size=4, verbose=0)
    assert len(tuned) >= 5 and set(tuned) == {False}

    tuned.clear()
    options = tf.data.Options()
    options.autotune.enabled = True
    model.fit(as_tf_data(IMAGES).with_options(options), verbose=0)
    assert set(tuned) == {True}  # who asks for it has it


def test_uint8_and_the_same_pixels_as_floats_train_identically():
    model, reference = make_model(), make_model()
    losses = fit(model, IMAGES, epochs=2), fit(reference, FLOATS, epochs=2)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(model.network.get_weights(), reference.network.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_points_of_any_range_train():
    x, t = keras.Input((2,)), keras.Input((), dtype="int32")
    time = keras_ddpm.layers.TimeEmbedding(4)(t)
    output = keras.layers.Dense(2)(keras.layers.Concatenate()([x, time]))
    model = DiffusionModel(keras.Model([x, t], output), GaussianDiffusion(50, "cosine"), seed=0)
    model.compile("adam")
    points = np.random.default_rng(0).normal(5, 3, (8, 2)).astype("float32")
    assert np.isfinite(fit(model, points)).all()
    assert model.generate(3, steps=2, seed=0).shape == (3, 2)
    with pytest.raises(ValueError, match="points must be finite"):
        fit(model, np.where(np.arange(2) == 1, np.inf, points))
