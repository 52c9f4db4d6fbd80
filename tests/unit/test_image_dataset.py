"""`ImageDataset`: what is in its batches, and that `fit` sees exactly them."""

import itertools

import keras
import numpy as np
import pytest
from tools import assert_refused, to_numpy

from keras_ddpm.data import ImageDataset, ImageSet

once = pytest.mark.once


def numbered_images(count, dtype=np.uint8):
    """Image i is 2 x 2 pixels of value 2i on the left and 2i + 1 on the right."""
    left = 2 * np.arange(count)[:, None, None, None]
    images = np.concatenate([left, left + 1], axis=2).repeat(2, axis=1)
    return images.astype(dtype)


def numbers(images):
    return np.asarray(images)[:, 0, 0, 0].astype(int) // 2


def is_mirrored(images):
    return images[:, 0, 0, 0] % 2 == 1


@once
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shuffle, flip, drop", [*itertools.product([True, False], repeat=3)])
@pytest.mark.parametrize("count, batch", [(1, 1), (12, 4), (15, 4)])
def test_an_epoch_has_every_image_once_with_its_label(count, batch, shuffle, flip, drop, dtype):
    scale = np.dtype(dtype).type(1 if dtype == np.uint8 else 0.01)  # floats lie in [-1, 1]
    images, labels = numbered_images(count, dtype) * scale, np.arange(count) + 100
    before = images.copy()
    dataset = ImageDataset(images, labels, batch, shuffle, flip, seed=3, drop_remainder=drop)
    batches = list(dataset)
    sizes = [len(x) for x, _ in batches]
    full, rest = divmod(count, batch)
    assert sizes == [batch] * full + [rest] * (rest > 0 and not drop)
    assert len(dataset) == len(sizes) and set(dataset.batch_sizes) == set(sizes)
    seen, of_seen = (np.concatenate(parts) for parts in zip(*batches))
    assert seen.dtype == dtype and len(set(of_seen)) == len(of_seen) == sum(sizes)
    assert (of_seen.tolist() == sorted(of_seen)) == (not shuffle or count == 1)
    expected = images[of_seen - 100]
    mirrored = (seen != expected).any((1, 2, 3))
    expected[mirrored] = expected[mirrored][:, :, ::-1]
    np.testing.assert_array_equal(seen, expected)
    assert flip or not mirrored.any()
    np.testing.assert_array_equal(images, before)  # not flipped in place


@once
def test_half_of_the_images_are_mirrored_anew_each_epoch_in_whatever_order():
    images = numbered_images(100).repeat(20, axis=0)
    flipped = []
    for epoch in range(2):
        shuffled, order = ImageDataset(images, np.arange(2000), 2000, epoch=epoch)[0]
        in_order = ImageDataset(images, None, 2000, shuffle=False, epoch=epoch)[0][0]
        flipped.append(is_mirrored(in_order))
        np.testing.assert_array_equal(is_mirrored(shuffled), flipped[-1][order])
    for mean in (flipped[0].mean(), flipped[1].mean(), (flipped[0] == flipped[1]).mean()):
        assert abs(mean - 0.5) < 0.05


@once
def test_an_epoch_follows_from_seed_and_epoch_alone():
    def epoch_of(seed, epoch):
        return ImageDataset(numbered_images(100), None, 100, seed=seed, epoch=epoch)[0][0]

    np.testing.assert_array_equal(epoch_of(5, 3), epoch_of(5, 3))
    orders = [numbers(epoch_of(*one)) for one in [(5, 3), (5, 4), (6, 3), (6, 2), (3, 5)]]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.1  # by chance it is about 0.01


@once
def test_only_an_epoch_that_was_served_whole_is_followed_by_the_next():
    dataset = ImageDataset(numbered_images(8), batch_size=4)
    dataset.on_epoch_end()  # as fit does before its first epoch
    next(iter(dataset))  # as fit does to build a model
    dataset.on_epoch_end()
    assert dataset.epoch == 0
    list(dataset)
    dataset.on_epoch_end()
    assert dataset.epoch == 1


@once
@pytest.mark.parametrize("drop", [True, False])
def test_the_parts_of_a_batch_are_the_batch(drop):
    images, labels, options = numbered_images(21), np.arange(21), {"drop_remainder": drop}
    parts = [ImageDataset(images, labels, 6, part=(i, 3), epoch=2, **options) for i in range(3)]
    whole = ImageDataset(images, labels, 6, epoch=2, **options)
    assert whole.batch_sizes == [6] + [3] * (not drop)
    for batch, *of_parts in zip(whole, *parts, strict=True):
        assert len({len(part[0]) for part in of_parts}) == 1
        for expected, *found in zip(batch, *of_parts, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected)


@once
def test_an_image_set_brings_its_labels():
    image_set = ImageSet(numbered_images(4), np.arange(4))
    images, labels = ImageDataset(image_set, batch_size=4)[0]
    np.testing.assert_array_equal(numbers(images), labels)
    other = ImageDataset(image_set, labels=np.arange(4) + 9, batch_size=4)[0][1]
    assert sorted(other) == [9, 10, 11, 12]
    assert len(ImageDataset(image_set.images, batch_size=4)[0]) == 1


@once
def test_wrong_arguments_are_named():
    def make(**wrong):
        return ImageDataset(**{"images": numbered_images(4), "batch_size": 2} | wrong)

    dtypes = (numbered_images(4, np.int64),)
    assert_refused(make, TypeError, images=dtypes, batch_size=(2.0,), seed=(None,), epoch=(0.5,))
    images = numbered_images(4)[0], numbered_images(0), numbered_images(4) / 1.0
    assert_refused(make, ValueError, images=images, labels=(np.arange(3), 3), batch_size=(5, 0))
    assert_refused(
        make, ValueError, seed=(-1,), epoch=(-1,), part=((2, 2), (0, 3), (0, 0), (-1, 1))
    )
    assert_refused(make, TypeError, part=(3, (0,), (0, 1, 2), "01", (0.0, 1)))
    assert_refused(make, TypeError, shuffle=("no", 1), flip=(None, 0), drop_remainder=("yes",))
    with pytest.raises(IndexError, match="batch 2 of a data set of 2"):
        make()[2]


@once
def test_arguments_may_be_those_of_numpy():
    options = {"batch_size": np.int64(2), "seed": np.uint8(3), "part": [np.int64(1), np.int32(2)]}
    dataset = ImageDataset(numbered_images(4), shuffle=np.False_, flip=np.False_, **options)
    assert [numbers(images).tolist() for (images,) in dataset] == [[1], [3]]


def test_fit_of_any_model_sees_the_promised_batches_and_a_resumed_fit_the_same():
    images = numbered_images(11)  # three batches; of one or two, Keras takes whole epochs before

    class Recorder(keras.layers.Layer):
        def call(self, inputs, training=False):
            if training and not isinstance(inputs, keras.KerasTensor):
                seen.append(np.array(to_numpy(inputs)))
            return inputs

    layers = [keras.Input((2, 2, 1)), Recorder(), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", run_eagerly=True)
    options = {"labels": np.arange(11), "batch_size": 3}
    validation = ImageDataset(images, **options, shuffle=False, drop_remainder=False)
    promised = [x for epoch in range(4) for x, _ in ImageDataset(images, **options, epoch=epoch)]
    for first in (0, 2):
        seen, dataset = [], ImageDataset(images, **options, epoch=first)
        epochs = {"initial_epoch": first, "epochs": 4}
        model.fit(dataset, validation_data=validation, shuffle=False, verbose=0, **epochs)
        np.testing.assert_array_equal(seen, promised[3 * first :])
        assert dataset.epoch == 4
