"""Wrong data and divergence are told by name, and change nothing."""

import keras
import numpy as np
import pytest
from conftest import assert_same_states, states, tiny_network
from tiny_training import FLOATS, IMAGES, LABELS, Record, distance, fit, make_model

from keras_ddpm import DiffusionModel


def test_a_nan_weight_raises_and_changes_nothing():
    model = make_model()
    weights = model.network.get_weights()
    weights[0][0] = np.nan
    model.network.set_weights(weights)
    before = states(model)
    with pytest.raises(FloatingPointError, match="diverged.*lower learning rate"):
        fit(model)
    assert_same_states(before, states(model), ("network", "ema", "optimizer"))


def test_divergence_keeps_the_weights_before_the_faulty_step():
    model, record = make_model(keras.optimizers.SGD(1e25)), Record()
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(model, batch_size=2, callbacks=[record])
    assert len(record.states) == 5
    assert distance(*record.group("network")[:2]) > 1e10
    for later in record.states[2:] + [states(model)]:
        assert_same_states(record.states[1], later, ("network", "ema", "optimizer"))


def test_a_fault_in_mid_epoch_survives_the_validation_after_it():
    model, wrong = make_model(), FLOATS.copy()
    wrong[5] = 200.0
    with pytest.raises(ValueError, match="x holds values from .* to 200"):
        fit(model, wrong, validation_data=FLOATS)
    fit(model)  # and correct data train again


@pytest.mark.parametrize(
    "num_classes, x, y, message",
    [
        (None, IMAGES.astype("float32"), None, "x holds values from 0 to 255 .*pass them as uint8"),
        (None, FLOATS * np.nan, None, "or NaN"),
        (None, np.where(np.arange(8)[:, None, None, None] == 3, np.inf, FLOATS), None, "inf"),
        (None, FLOATS * 1.01, None, "x holds values from -1.01 to 1.01"),
        (3, FLOATS, LABELS + 1, "labels run from 1 to 3 .*num_classes=3: use 0 to 2.*labels - 1"),
        (3, FLOATS, LABELS - 1, "labels run from -1 to 1 "),
        (None, FLOATS, LABELS, "unconditional network.*num_classes"),
        (3, FLOATS, None, "num_classes=3, but the data have no labels"),
        (None, FLOATS.repeat(3, -1), None, r"shape \(8, 8, 3\), .*built for \(8, 8, 1\)"),
        (None, FLOATS[:, :6], None, r"shape \(6, 8, 1\), .*built for \(8, 8, 1\)"),
        (None, IMAGES.astype("int64"), None, "x has dtype int.*give uint8, or float"),
        (3, FLOATS, np.eye(3, dtype="int32")[LABELS], "one-hot labels use `labels.argmax"),
        (3, FLOATS, LABELS.astype("float32"), "labels have dtype float32.*ints"),
    ],
)
def test_wrong_data_raise_and_change_nothing(num_classes, x, y, message):
    model = make_model(num_classes=num_classes)
    before = states(model)
    with pytest.raises((ValueError, TypeError), match=message):
        fit(model, x, y)
    assert_same_states(before, states(model), ("network", "ema", "optimizer"))


def test_wrong_validation_data_raise_and_right_ones_work_afterwards():
    model, wrong = make_model(), IMAGES.astype("float32")
    with pytest.raises(ValueError, match="to 255 .*evaluation data"):
        model.evaluate(wrong, verbose=0)
    with pytest.raises(ValueError, match="to 255 .*evaluation data"):
        fit(model, validation_data=wrong)
    fit(model, validation_data=FLOATS)
    assert np.isfinite(model.evaluate(FLOATS, verbose=0))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"ema_decay": 1.0}, r"ema_decay must be a number in \[0, 1\), got 1.0"),
        ({"label_dropout": -0.1}, r"label_dropout must be a number in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_shares_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DiffusionModel(tiny_network(), **kwargs)


def test_sample_weights_without_labels_are_not_dropped_in_silence():
    with pytest.raises(ValueError, match="sample_weight was given without y"):
        make_model().fit(IMAGES, sample_weight=np.ones(len(IMAGES)), verbose=0)
