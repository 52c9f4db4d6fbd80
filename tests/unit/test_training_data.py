"""What `fit` takes data from: arrays and data sets of each library, bytes and floats."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from tools import (
    BACKEND,
    FLOATS,
    IMAGES,
    LABELS,
    Batches,
    fit,
    fixed_draw,
    make_model,
    random_weights,
    resetting,
    tiny_network,
)

from keras_ddpm import DiffusionModel, SampleImages, UNet
from keras_ddpm.callbacks import Throughput
from keras_ddpm.data import ImageDataset, ImageSet


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


@pytest.mark.parametrize(
    "x, y, message",
    [
        (None, None, "^x=None: give one array of samples"),
        ({"image": IMAGES, "label": LABELS}, None, "^x is a dict: give one array"),
        ((IMAGES, LABELS), None, "^x is a tuple: give one array"),
        (list(IMAGES), LABELS, "^x is a list: .*np.stack"),
        (IMAGES, LABELS.tolist(), "^y is a list: give"),
        (IMAGES, np.array([*"abcabcab"]), "^y has dtype <U1 .* numbers"),
        (np.array([None] * 8), LABELS, "^x has dtype object"),
        (IMAGES[:0], LABELS[:0], r"^x has dtype uint8 and shape \(0, 8, 8, 1\)"),
        (ImageSet(IMAGES, LABELS), None, "^x=ImageSet of 8 images .*ImageDataset"),
        (lambda: Batches({"image": IMAGES, "label": LABELS}), None, "x is a dict in each batch"),
        (lambda: Batches(({"image": IMAGES}, LABELS)), None, "x is a dict in each batch"),
        (lambda: Batches((IMAGES, {"label": LABELS})), None, "labels are a dict in each batch"),
        (lambda: Batches((IMAGES, LABELS, np.ones((8, 8)))), None, "sample_weight has shape"),
    ],
)
def test_what_fit_cannot_take_is_refused_with_what_to_give(x, y, message):
    model = reset(3)()
    x = x() if callable(x) else x
    for act in (model.fit, model.evaluate):
        with pytest.raises((TypeError, ValueError), match=message):
            act(x, y, verbose=0)
    if x is not None and not isinstance(x, tuple):  # which validation data may be
        with pytest.raises((TypeError, ValueError), match=message):
            model.fit(IMAGES, LABELS, validation_data=x if y is None else (x, y), verbose=0)
    assert np.isfinite(fit(model, IMAGES, LABELS)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64"])
def test_labels_are_ints_of_any_size_in_one_or_two_axes(dtype):
    expected = train(IMAGES, LABELS, num_classes=3)
    assert_close(train(IMAGES, LABELS.astype(dtype)[:, None], num_classes=3), expected)


def test_generators_tensors_and_weights_train_as_numpy_does():
    """Weights of any float type and shape `(batch,)` or `(batch, 1)`, also beside min-SNR."""

    def forever():
        while True:
            for part in (slice(4), slice(4, 8)):
                yield IMAGES[part], LABELS[part], np.ones((4, 1))

    for gamma in (None, 5.0):
        reset_model = resetting(make_model(3, min_snr_gamma=gamma))
        model = reset_model()
        expected = fit(model, IMAGES, LABELS, epochs=2)
        for x, y, options in (
            (forever(), None, {"steps_per_epoch": 2}),
            (IMAGES, LABELS, {"batch_size": np.int64(4), "sample_weight": np.ones(8, "float16")}),
            (ops.convert_to_tensor(np.array(IMAGES)), ops.convert_to_tensor(LABELS), {}),
        ):
            options = {"batch_size": 4 if y is not None else None, **options}
            history = reset_model().fit(x, y, shuffle=False, epochs=2, verbose=0, **options)
            np.testing.assert_allclose(history.history["loss"], expected, atol=1e-5)


@pytest.mark.needs("tensorflow")
def test_sizes_that_are_not_known_in_advance():
    import tensorflow as tf

    def halves():
        yield from ((IMAGES[part], LABELS[part]) for part in (slice(4), slice(4, 8)))

    for images, labels in (((None,) * 4, (None,)), ((None, 8, 8, 1), (4,))):
        specs = tf.TensorSpec(images, tf.uint8), tf.TensorSpec(labels, tf.int32)
        data = tf.data.Dataset.from_generator(halves, output_signature=specs)
        model = reset(3)()
        options = {"validation_data": data, "callbacks": [Throughput(8, epochs=1)]}
        loss = model.fit(data, verbose=0, **options).history["loss"]
        np.testing.assert_allclose(loss, fit(reset(3)(), IMAGES, LABELS), atol=1e-5)


@pytest.mark.once
def test_an_unknown_number_of_axes_is_refused():
    import tensorflow as tf

    specs = tf.TensorSpec(None, tf.uint8), tf.TensorSpec(None, tf.int32)
    data = tf.data.Dataset.from_generator(lambda: iter([(IMAGES, LABELS)]), output_signature=specs)
    with pytest.raises(ValueError, match="x is a tensor with an unknown number of axes"):
        make_model(3).fit(data, verbose=0)


@pytest.mark.once
def test_calls_in_the_wrong_order_say_what_comes_first():
    model = DiffusionModel(tiny_network())
    for act in (model.fit, model.train_on_batch, model.evaluate, model.test_on_batch):
        with pytest.raises(ValueError, match="compile"):
            act(IMAGES)
    with pytest.raises(TypeError, match=r"inputs must be \['x_t', 't'\]. To draw samples use"):
        model.predict(FLOATS, verbose=0)
    with pytest.raises(RuntimeError, match="no model yet: pass it to `fit`"):
        SampleImages().draw()


@pytest.fixture
def global_settings():
    before = keras.config.floatx(), keras.config.image_data_format()
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_image_data_format(before[1])


def test_global_settings_of_keras_change_nothing(global_settings):
    def run():
        network = UNet(8, 1, (4, 8), (False, True), 1, 2, num_classes=3, downsample_padding="both")
        options = {"run_eagerly": BACKEND != "jax"}
        model = make_model(network=random_weights(network), compile=options)
        model.draw = fixed_draw
        losses = fit(model, IMAGES, LABELS, batch_size=8, validation_data=(IMAGES, LABELS))
        return losses, model.generate(labels=[0, 1], guidance_scale=2.0, steps=2, seed=0)

    expected = run()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float32")  # which follows floatx
    keras.config.set_image_data_format("channels_first")
    for found, value in zip(run(), expected):
        np.testing.assert_allclose(found, value, atol=1e-5)
