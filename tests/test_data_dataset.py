"""Batches of images: what is in them, and that `fit` sees exactly them on every backend."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ddpm.data import ImageDataset, ImageSet


def numbered_images(count, dtype=np.uint8):
    """Image i is 2 x 2 pixels of value 2i on the left and 2i + 1 on the right."""
    left = 2 * np.arange(count)[:, None, None, None]
    images = np.concatenate([left, left + 1], axis=2).repeat(2, axis=1)
    return images.astype(dtype)


def numbers(images):
    return np.asarray(images)[:, 0, 0, 0].astype(int) // 2


def is_mirrored(images):
    return images[:, 0, 0, 0] % 2 == 1


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 40),
    shuffle=st.booleans(),
    flip=st.booleans(),
    drop=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_an_epoch_shows_every_image_once_with_its_label(count, batch, shuffle, flip, drop, dtype):
    batch = min(batch, count)
    images, labels = numbered_images(count, dtype), np.arange(count) + 100
    dataset = ImageDataset(images, labels, batch, shuffle, flip, seed=3, drop_remainder=drop)
    batches = list(dataset)
    assert len(batches) == len(dataset) == (count // batch if drop else -(-count // batch))
    sizes = [len(x) for x, _ in batches]
    assert sizes[:-1] == [batch] * (len(sizes) - 1) and 1 <= sizes[-1] <= batch
    assert sizes[-1] == batch or not drop
    seen = np.concatenate([numbers(x) for x, _ in batches])
    assert len(set(seen)) == len(seen) == sum(sizes)
    np.testing.assert_array_equal(seen + 100, np.concatenate([y for _, y in batches]))
    if not shuffle:
        np.testing.assert_array_equal(seen, np.arange(len(seen)))
    for x, _ in batches:
        assert x.dtype == dtype
        np.testing.assert_array_equal(
            x,
            np.where(
                is_mirrored(x)[:, None, None, None],
                *[images[numbers(x)][:, :, ::s] for s in (-1, 1)],
            ),
        )
        assert flip or not is_mirrored(x).any()
    np.testing.assert_array_equal(images, numbered_images(count, dtype))  # not flipped in place


def test_half_of_the_images_are_mirrored_anew_each_epoch():
    dataset = ImageDataset(np.tile([[[[0.0], [1.0]]]], (4000, 2, 1, 1)), batch_size=4000)
    first, second = is_mirrored(dataset[0][0]), None
    dataset.epoch = 1
    second = is_mirrored(dataset[0][0])
    assert abs(first.mean() - 0.5) < 0.04 and abs(second.mean() - 0.5) < 0.04
    assert abs((first == second).mean() - 0.5) < 0.04


def epoch_of(seed, epoch):
    (batch,) = ImageDataset(numbered_images(100), batch_size=100, seed=seed, epoch=epoch)
    return batch[0]


def test_an_epoch_is_a_function_of_seed_and_epoch_alone():
    np.testing.assert_array_equal(epoch_of(5, 3), epoch_of(5, 3))
    neighbours = [(5, 3), (5, 4), (6, 3), (6, 2), (3, 5)]
    for i, one in enumerate(neighbours):
        for other in neighbours[:i]:  # about one place in a hundred is the same by chance
            assert (numbers(epoch_of(*one)) == numbers(epoch_of(*other))).mean() < 0.1


def test_shuffling_and_flipping_do_not_disturb_each_other():
    both, only_flip = (
        ImageDataset(numbered_images(50), None, 50, shuffle=s) for s in (True, False)
    )
    of_image = np.empty(50, bool)
    of_image[numbers(both[0][0])] = is_mirrored(both[0][0])
    np.testing.assert_array_equal(of_image, is_mirrored(only_flip[0][0]))


def test_epochs_advance_once_begun():
    dataset = ImageDataset(numbered_images(8), batch_size=4)
    dataset.on_epoch_end()  # as fit does before its first epoch
    next(iter(dataset))  # as fit does to build a model
    dataset.on_epoch_end()
    assert dataset.epoch == 0
    for epoch in range(3):
        np.testing.assert_array_equal(
            [x for (x,) in dataset],
            [x for (x,) in ImageDataset(numbered_images(8), batch_size=4, epoch=epoch)],
        )
        dataset.on_epoch_end()
        assert dataset.epoch == epoch + 1


@pytest.mark.once
@pytest.mark.parametrize("drop", [True, False])
def test_the_parts_of_a_batch_are_the_batch(drop):
    images, labels, options = numbered_images(21), np.arange(21), {"drop_remainder": drop}
    parts = [ImageDataset(images, labels, 6, part=(i, 3), **options) for i in range(3)]
    whole = ImageDataset(images, labels, 6, **options)
    assert whole.batch_sizes == [6] + [3] * (not drop)
    for dataset in (whole, *parts):
        dataset.epoch = 2
    for batch, *of_parts in zip(whole, *parts, strict=True):
        assert len({len(part[0]) for part in of_parts}) == 1
        for expected, *found in zip(batch, *of_parts, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected)


def test_an_image_set_brings_its_labels():
    image_set = ImageSet(numbered_images(4), np.arange(4), None)
    images, labels = ImageDataset(image_set, batch_size=4)[0]
    np.testing.assert_array_equal(numbers(images), labels)
    assert len(ImageDataset(image_set.images, batch_size=4)[0]) == 1
    other = ImageDataset(image_set, labels=np.arange(4) + 9, batch_size=4)[0][1]
    assert sorted(other) == [9, 10, 11, 12]


@pytest.mark.parametrize(
    "error, wrong",
    [
        (ValueError, {"batch_size": 5}),
        (ValueError, {"batch_size": 0}),
        (TypeError, {"batch_size": 2.0}),
        (ValueError, {"seed": -1}),
        (TypeError, {"seed": None}),
        (ValueError, {"epoch": -1}),
        (TypeError, {"epoch": 0.5}),
        (ValueError, {"labels": np.arange(3)}),
        (ValueError, {"labels": 3}),
        (ValueError, {"images": numbered_images(4)[0]}),
        (ValueError, {"images": numbered_images(0)}),
        (TypeError, {"images": numbered_images(4, np.int64)}),
        (TypeError, {"images": "flowers"}),
        (ValueError, {"part": (2, 2)}),
        (ValueError, {"part": (0, 3)}),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(error, wrong):
    (argument,) = wrong
    with pytest.raises(error, match=argument):
        ImageDataset(**{"images": numbered_images(4), "batch_size": 2} | wrong)


def test_a_batch_larger_than_the_set_names_both_numbers():
    with pytest.raises(ValueError, match="batch_size=32.*4"):
        ImageDataset(numbered_images(4))


def test_there_is_no_batch_beyond_the_last():
    with pytest.raises(IndexError):
        ImageDataset(numbered_images(4), batch_size=2)[2]


@keras.saving.register_keras_serializable("test_data_dataset")
class Recorder(keras.layers.Layer):
    """Passes its input on and keeps the training batches (needs eager execution)."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def call(self, inputs, training=False):
        if training and not isinstance(inputs, keras.KerasTensor):
            self.batches.append(np.array(keras.ops.convert_to_numpy(inputs)))
        return inputs


def record_fit(dataset, **options):
    recorder = Recorder()
    inputs = keras.Input((2, 2, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(recorder(inputs))
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse", run_eagerly=True)
    model.fit(dataset, shuffle=False, verbose=0, **options)
    return recorder.batches


def test_fit_sees_the_promised_batches_and_a_resumed_fit_the_same():
    images, labels = numbered_images(11), np.arange(11.0)
    validation = ImageDataset(images, labels, 4, shuffle=False, flip=False, drop_remainder=False)

    def make(epoch):
        return ImageDataset(images, labels, batch_size=3, seed=7, epoch=epoch)

    promised = [x for epoch in range(4) for x, _ in make(epoch)]

    dataset = make(0)
    whole = record_fit(dataset, epochs=4, validation_data=validation)
    np.testing.assert_array_equal(whole, promised)
    assert dataset.epoch == 4
    resumed = record_fit(make(2), initial_epoch=2, epochs=4, validation_data=validation)
    np.testing.assert_array_equal(resumed, promised[6:])
    dataset.epoch = 2
    np.testing.assert_array_equal(record_fit(dataset, initial_epoch=2, epochs=4), promised[6:])


@pytest.mark.parametrize("count", [1, 3, 7])  # one, one and two batches
def test_epochs_of_a_small_set_follow_fit_by_callback(count):
    def make(epoch):
        return ImageDataset(numbered_images(count), np.ones(count), min(count, 3), epoch=epoch)

    promised = [x for epoch in (2, 3) for x, _ in make(epoch)]
    dataset = make(0)
    callbacks = [dataset.epoch_callback()]
    seen = record_fit(dataset, initial_epoch=2, epochs=4, callbacks=callbacks)
    np.testing.assert_array_equal(seen, promised)


def test_fit_compiled_on_bytes():
    inputs = keras.Input((2, 2, 1), dtype="uint8")
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    dataset = ImageDataset(numbered_images(11), np.ones(11, "float32"), 4, drop_remainder=False)
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
