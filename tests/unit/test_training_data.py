"""What `fit` takes data from: arrays and data sets of each library, bytes and floats."""

import functools

import numpy as np
import pytest
from tools import FLOATS, IMAGES, LABELS, fit, make_model, resetting

from keras_ddpm.data import ImageDataset


def as_image_dataset(*arrays):
    return ImageDataset(*arrays, batch_size=4, shuffle=False, flip=False)


def as_tf_data(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(4)


def as_data_loader(*arrays):
    import torch
    from torch.utils import data

    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return data.DataLoader(data.TensorDataset(*tensors), batch_size=4)


@functools.cache
def reset(num_classes=None):
    """One model for all tests, whose program is compiled once."""
    return resetting(make_model(num_classes))


def train(x, y=None, num_classes=None):
    """Weights, and losses of the validation, after two epochs."""
    model, options = reset(num_classes)(), {"validation_data": x}
    if isinstance(x, np.ndarray):
        options = {"batch_size": 4, "shuffle": False, "validation_data": (x, y)}
    history = model.fit(x, y, epochs=2, verbose=0, **options).history
    return [*model.network.get_weights(), np.array(history["val_loss"])]


def assert_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "source",
    [
        as_image_dataset,
        pytest.param(as_tf_data, marks=pytest.mark.needs("tensorflow")),
        pytest.param(as_data_loader, marks=pytest.mark.needs("torch")),
    ],
)
def test_every_source_trains_as_numpy_does(source):
    found = train(source(IMAGES, LABELS), num_classes=3)
    assert_close(found, train(FLOATS, LABELS, num_classes=3))


@pytest.mark.once
@pytest.mark.parametrize("source", [as_image_dataset, as_tf_data])
def test_sources_without_labels_train_as_numpy_does(source):
    assert_close(train(source(IMAGES)), train(IMAGES))


def test_fit_serves_the_order_and_flips_of_a_data_set():
    dataset = ImageDataset(IMAGES, LABELS, batch_size=4, seed=5)
    model = reset(3)()
    model.fit(dataset, epochs=2, verbose=0)
    found = model.network.get_weights()
    assert dataset.epoch == 2
    model = reset(3)()
    for epoch in range(2):
        dataset.epoch = epoch
        fit(model, *map(np.concatenate, zip(*dataset)))
    assert_close(found, model.network.get_weights())


@pytest.mark.once
def test_no_epoch_waits_for_a_thread_that_tunes_the_batches(monkeypatch):
    """A thread of TensorFlow; `to_tf_dataset` turns it off."""
    made, make = [], ImageDataset.to_tf_dataset
    monkeypatch.setattr(ImageDataset, "to_tf_dataset", lambda data: made.append(data) or make(data))
    data, validation = as_image_dataset(IMAGES), as_image_dataset(IMAGES)
    reset()().fit(data, verbose=0, validation_data=validation)
    assert {data, validation} == {*made}
