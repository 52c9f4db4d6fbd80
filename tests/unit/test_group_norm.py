"""The group normalisation of the networks is that of Keras, with the same gradients."""

import keras
import numpy as np
import pytest
from keras import layers
from tools import to_numpy

from keras_ddpm.backend import GroupNormalization

RNG = np.random.default_rng(0)
# Channels of very different sizes, and means far from zero.
X = RNG.normal(RNG.normal(0, 3, 12), RNG.uniform(0.1, 5, 12), (4, 6, 5, 12)).astype("float32")


def layer_of(kind, groups, policy):
    layer = kind(groups, epsilon=1e-3, dtype=policy)
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    return layer


@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_its_values(groups, policy, tolerance):
    ours = layer_of(GroupNormalization, groups, policy)
    expected = to_numpy(layer_of(layers.GroupNormalization, groups, "float32")(X))
    found = ours(X)
    assert keras.backend.standardize_dtype(found.dtype) == ours.compute_dtype
    error = np.abs(to_numpy(keras.ops.cast(found, "float32")) - expected)
    assert error.max() < tolerance * np.abs(expected).max()
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()


def test_its_gradients_by_what_one_step_changes():
    """Of its own weights, and through it of those of a layer before."""
    y = np.random.default_rng(2).standard_normal((len(X), 1)).astype("float32")
    changes = []
    for kind in (GroupNormalization, layers.GroupNormalization):
        keras.utils.set_random_seed(0)
        parts = [layers.Conv2D(12, 1), layer_of(kind, 4, "float32"), layers.Flatten()]
        model = keras.Sequential([keras.Input(X.shape[1:]), *parts, layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        before = model.get_weights()
        model.train_on_batch(X, y)
        changes.append([new - old for new, old in zip(model.get_weights(), before)])
    for found, expected in zip(*changes, strict=True):
        assert np.abs(expected).max() > 1e-5
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
