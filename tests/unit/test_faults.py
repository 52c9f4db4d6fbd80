"""Wrong data and divergence raise an error that names them, and change no weight."""

import warnings
from functools import partial
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from tools import (
    BACKEND,
    FLOATS,
    IMAGES,
    LABELS,
    Batches,
    Record,
    assert_refused,
    assert_same_states,
    distance,
    fit,
    make_model,
    resetting,
    states,
    tiny_network,
    to_numpy,
)

from keras_ddpm import MLP, DiffusionModel

WEIGHTS = ("network", "ema", "optimizer")


@pytest.fixture(scope="module")
def fresh():
    """The same two models for all tests, as new."""
    models = {num_classes: resetting(make_model(num_classes)) for num_classes in (None, 3)}
    return lambda num_classes=None: models[num_classes]()


def test_a_nan_weight_raises_and_changes_nothing(fresh):
    model = fresh()
    weights = model.network.get_weights()
    weights[0][0] = np.nan
    model.network.set_weights(weights)
    before = states(model)
    with pytest.raises(FloatingPointError, match="diverged.*lower learning rate"):
        fit(model)
    assert_same_states(before, states(model), WEIGHTS)


def test_divergence_keeps_the_weights_before_the_faulty_step():
    model, record = make_model(optimizer=keras.optimizers.SGD(1e25)), Record()
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(model, batch_size=2, callbacks=[record])
    assert len(record.states) == 5
    assert distance(*record.group("network")[:2]) > 1e10
    for later in record.states[2:] + [states(model)]:
        assert_same_states(record.states[1], later, WEIGHTS)


def assert_raises_and_changes_nothing(model, x, y, message):
    before = states(model)
    for train in (model.fit, model.train_on_batch, model.evaluate, model.test_on_batch):
        with pytest.raises((ValueError, TypeError), match=message):
            train(x, y)
    assert_same_states(before, states(model), WEIGHTS)


@pytest.mark.parametrize(
    "num_classes, x, y, message",
    [
        (None, IMAGES.astype("float32"), None, "x holds values from 0 to 255 .*pass them as uint8"),
        (None, FLOATS * np.nan, None, "or NaN"),
        (None, np.where(np.arange(8)[:, None, None, None] == 3, np.inf, FLOATS), None, "inf"),
        (None, FLOATS * 1.01, None, "x holds values from -1.01 to 1.01"),
        (3, FLOATS, LABELS + 1, "labels run from 1 to 3 .*num_classes=3: use 0 to 2.*labels - 1"),
        (3, FLOATS, LABELS - 1, "labels run from -1 to 1 "),
    ],
)
def test_wrong_values_raise_and_change_nothing(fresh, num_classes, x, y, message):
    assert_raises_and_changes_nothing(fresh(num_classes), x, y, message)


@pytest.mark.parametrize(
    "num_classes, x, y, message",
    [
        (None, FLOATS, LABELS, "unconditional network.*num_classes"),
        (3, FLOATS, None, "num_classes=3, but the data have no labels"),
        (None, FLOATS.repeat(3, -1), None, r"shape \(8, 8, 3\), .*built for \(8, 8, 1\)"),
        (None, FLOATS[:, :6], None, r"shape \(6, 8, 1\), .*built for \(8, 8, 1\)"),
        (None, IMAGES.astype("int64"), None, "x has dtype int.*give uint8, or float"),
        (3, FLOATS, np.eye(3, dtype="int32")[LABELS], "one-hot labels use `labels.argmax"),
        (3, FLOATS, LABELS.astype("float32"), "labels have dtype float32.*ints"),
    ],
)
def test_wrong_shapes_and_dtypes_raise_and_change_nothing(fresh, num_classes, x, y, message):
    # TensorFlow knows fewer shapes once it has traced a step for several of them.
    model = make_model(num_classes) if BACKEND == "tensorflow" else fresh(num_classes)
    assert_raises_and_changes_nothing(model, x, y, message)


def test_a_model_survives_a_step_that_raises(fresh):
    """The second one: what the first one has learnt is there."""
    model, record = fresh(), Record()
    for run, options in ((model.fit, {"callbacks": [record]}), (model.evaluate, {})):
        with pytest.raises(Exception, match=r"shape \(6, 8, 1\)|Input to reshape"):
            run(Batches((FLOATS[:4],), (FLOATS[:4, :6],)), verbose=0, **options)
        assert_same_states(record.states[1], states(model), WEIGHTS)
    assert distance(*record.group("network")) > 1e-3
    assert np.isfinite(fit(model)).all() and np.isfinite(model.evaluate(FLOATS, verbose=0))


def test_a_fault_in_mid_epoch_survives_the_validation_after_it(fresh):
    model, wrong = fresh(), FLOATS.copy()
    wrong[5] = 200.0
    with pytest.raises(ValueError, match="x holds values from .* to 200"):
        fit(model, wrong, validation_data=FLOATS)
    fit(model)  # and correct data train again


def test_wrong_validation_data_raise_and_right_ones_work_afterwards(fresh):
    model, wrong = fresh(), IMAGES.astype("float32")
    with pytest.raises(ValueError, match="to 255 .*evaluation data"):
        fit(model, validation_data=wrong)
    fit(model, validation_data=FLOATS)
    assert np.isfinite(model.evaluate(FLOATS, verbose=0))


@pytest.mark.once
@pytest.mark.parametrize("text", ["OOM when allocating", "RESOURCE_EXHAUSTED", "out of memory"])
def test_running_out_of_memory_is_explained(fresh, monkeypatch, text):
    """In each backend's words; other errors are left as they are."""
    monkeypatch.setattr(keras.Model, "fit", Mock(side_effect=RuntimeError(text)))
    with pytest.raises(MemoryError, match=rf"batches of \[32, 8\]: .*remat=True.*{text}"):
        fresh().fit(FLOATS.repeat(5, 0))
    monkeypatch.setattr(keras.Model, "fit", Mock(side_effect=RuntimeError("a wrong shape")))
    with pytest.raises(RuntimeError, match="^a wrong shape$"):
        fresh().fit(FLOATS)


@pytest.mark.once
def test_wrong_arguments_are_refused():
    make, with_classes = (partial(DiffusionModel, tiny_network(num_classes=n)) for n in (None, 2))
    numbers = {"ema_decay": [1.0], "label_dropout": [-0.1], "min_snr_gamma": [0]}
    assert_refused(make, ValueError, class_names=[["a"]], **numbers)
    assert_refused(with_classes, ValueError, class_names=[["a"], ["a", "a"], [*"abc"]])
    assert_refused(make, TypeError, diffusion=["cosine"])
    assert_refused(DiffusionModel, ValueError, network=[keras.layers.Dense(1)])


def test_sample_weights_without_labels_are_refused(fresh):
    with pytest.raises(ValueError, match="sample_weight was given without y"):
        fresh().fit(IMAGES, sample_weight=np.ones(len(IMAGES)), verbose=0)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_wrong_sample_weights_raise_and_change_nothing(fresh, wrong):
    model, weights = fresh(3), np.ones(8)
    weights[5] = wrong
    before = states(model)
    for act in (model.fit, model.train_on_batch, model.evaluate, model.test_on_batch):
        with pytest.raises(ValueError, match="^sample_weight holds values from .* at least 0"):
            act(FLOATS, LABELS, sample_weight=weights)
    assert_same_states(before, states(model), WEIGHTS)


def test_a_wrong_batch_is_forgotten_once_it_was_reported(fresh):
    model = fresh(3)
    for x, y in ((IMAGES.astype("float32"), LABELS), (IMAGES, LABELS + 9)):
        with pytest.raises(ValueError):
            model.test_on_batch(x, y)
        assert np.isfinite(model.evaluate(IMAGES, LABELS, verbose=0))


@pytest.mark.parametrize(
    "x, warns", [(np.abs(FLOATS), True), (FLOATS, False), (IMAGES // 2 + 128, False)]
)
def test_float_images_without_a_negative_value_are_reported_once(fresh, x, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fresh().fit(x, batch_size=4, epochs=3, verbose=0).history
    caught = [str(one.message) for one in caught if "no negative value" in str(one.message)]
    assert len(caught) == warns and len(history["loss"]) == 3
    assert all(text.startswith("x: the first float images") for text in caught)


def test_points_without_a_negative_value_are_no_images():
    model = make_model(network=MLP(2, 8, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, np.ones((8, 2), "float32"))


@pytest.mark.once
def test_a_fault_is_found_soon_with_many_steps_in_one_call():
    import tensorflow as tf

    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    data = tf.data.Dataset.from_tensors(IMAGES.astype("float32")).repeat()
    model = make_model(compile={"steps_per_execution": 8})
    with pytest.raises(ValueError, match=r"epoch 1, up to batch 7\)"):
        model.fit(data, steps_per_epoch=240, verbose=0, callbacks=[count])
    assert seen == [7]


@pytest.mark.parametrize("wrong", [2**32, 2**32 + 1, -(2**32), 2**40])
def test_labels_of_64_bits_are_not_cut_to_32(fresh, wrong):
    model, labels = fresh(3), LABELS.astype("int64")
    labels[1] += wrong
    before = states(model)
    for x in (Batches((FLOATS, labels)), None):
        data = (x,) if x else (FLOATS, labels)
        for act in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="^labels run from .*num_classes=3: use 0 to 2"):
                act(*data, verbose=0)
    assert_same_states(before, states(model), WEIGHTS)


def test_a_wrong_batch_leaves_the_means_of_batch_normalization_as_they_are():
    x_t, t = keras.Input((8, 8, 1), name="x_t"), keras.Input((), dtype="int32", name="t")
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(x_t))
    network = keras.Model([x_t, t], keras.layers.Conv2D(1, 3, padding="same")(x))
    model = make_model(network=network)
    fit(model)
    before = states(model)
    for wrong in (FLOATS * np.nan, FLOATS * 3):
        with pytest.raises(ValueError, match="No weight was changed"):
            fit(model, wrong)
        assert_same_states(before, states(model), WEIGHTS)
    fit(model)
    means = [v.path for v in network.non_trainable_variables if "moving" in v.path]
    assert (
        len(means) == 2
        and distance(
            *[
                [v for k, v in state.items() if k.startswith("network")]
                for state in (before, states(model))
            ]
        )
        > 0
    )


def test_samples_of_weights_that_are_not_finite_are_refused(fresh):
    model = fresh()
    model.ema_network.weights[0].assign(to_numpy(model.ema_network.weights[0]) * np.nan)
    with pytest.raises(FloatingPointError, match="the samples are NaN or infinite"):
        model.generate(2, steps=2)


@pytest.mark.once
def test_an_error_of_a_callback_is_left_as_it_is(fresh):
    class Broken(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("out of memory in a plot")

    with pytest.raises(RuntimeError, match="^out of memory in a plot$"):
        fit(fresh(), callbacks=[Broken()])


@pytest.mark.once
def test_wrong_options_of_compile_fit_and_evaluate_are_named(fresh):
    model = fresh(3)
    data = {"x": FLOATS, "y": LABELS, "verbose": 0}
    counts = (0, -1)
    wrong = {
        "epochs": counts,
        "batch_size": counts,
        "validation_batch_size": counts,
        "steps_per_epoch": counts,
        "validation_steps": counts,
        "initial_epoch": (-1,),
        "validation_split": (1.5, -0.5, np.nan),
        "validation_freq": (0, [1, -1]),
    }
    assert_refused(partial(model.fit, **data), ValueError, **wrong)
    types = {name: ("a", 2.5) for name in wrong if name != "validation_split"}
    types["epochs"] = (None, True)
    types |= {"validation_split": ("a",), "class_weight": ([1.0, 2.0], "balanced")}
    assert_refused(partial(model.fit, **data), TypeError, **types)
    assert_refused(partial(model.evaluate, **data), ValueError, steps=counts, batch_size=counts)
    with pytest.raises(ValueError, match="class_weight needs y"):
        model.fit(FLOATS, class_weight={0: 1.0})
    compiling = {"optimizer": (None,), "loss": (None,), "steps_per_execution": counts}
    assert_refused(model.compile, ValueError, **compiling)
    types = {"jit_compile": ("yes", None), "steps_per_execution": ("auto", 2.5), "loss": ({},)}
    assert_refused(model.compile, TypeError, **types)
