"""`ImageDataset` as a `tf.data.Dataset`: the same batches in the same order, and training on it."""

import numpy as np
import pytest
from tools import BACKEND, IMAGES, LABELS, assert_same_states, make_model, states

from keras_ddpm import ImageDataset

pytestmark = pytest.mark.once


@pytest.mark.parametrize("labels", [None, LABELS], ids=["images", "labels"])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_epochs_are_those_of_the_data_set(labels, drop_remainder):
    def make():
        return ImageDataset(IMAGES, labels, batch_size=3, seed=5, drop_remainder=drop_remainder)

    ours, source = make(), make()
    dataset = source.to_tf_dataset()
    assert not dataset.options().autotune.enabled
    size = 3 if drop_remainder else None  # of each batch, if they are of one size
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [
        (size, 8, 8, 1),
        *([] if labels is None else [(size,)]),
    ]
    assert int(dataset.cardinality()) == len(ours) == (2 if drop_remainder else 3)
    for epoch in range(3):
        assert source.epoch == epoch
        expected, found = list(ours), list(dataset.as_numpy_iterator())
        ours.on_epoch_end()
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            for array, wanted in zip(one, other, strict=True):
                assert array.dtype == wanted.dtype
                np.testing.assert_array_equal(array, wanted)


def test_training_serves_each_epoch_its_own_batches():
    """And goes on from the epoch that the data set says."""
    assert BACKEND == "tensorflow"

    def train(epochs, model=None, **kwargs):
        model = model or make_model(num_classes=3)
        dataset = ImageDataset(IMAGES, LABELS, batch_size=4, **kwargs)
        validation = ImageDataset(IMAGES, LABELS, batch_size=3, drop_remainder=False)
        model.fit(dataset, validation_data=validation, epochs=epochs, verbose=0)
        return model, dataset

    whole, dataset = train(epochs=3)
    assert dataset.epoch == 3
    halves, _ = train(epochs=2)
    train(epochs=1, model=halves, epoch=2)
    groups = ("network", "ema", "optimizer", "seeds_0")
    assert_same_states(states(whole), states(halves), groups)
    assert np.isfinite(whole.evaluate(dataset, verbose=0))
