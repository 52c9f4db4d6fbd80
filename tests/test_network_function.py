"""A network that is run in a backend's own way says and learns what Keras' way does."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
from conftest import to_numpy
from keras import layers, ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp, build_unet
from keras_ddpm.backend import network_function

BACKEND = keras.backend.backend()


def unet():
    return build_unet(
        8, 1, (8, 16), (False, True), num_res_blocks=1, dropout=0.5, norm_groups=4, num_classes=3
    )


def with_arithmetic():
    """Operations of two tensors, which are no layers."""
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    x = layers.Conv2D(1, 3, padding="same")(x_t)
    return keras.Model([x_t, t], x * 2 + x_t - ops.reshape(ops.cast(t, "float32"), (-1, 1, 1, 1)))


def with_a_shared_layer():
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    shared = layers.Conv2D(1, 3, padding="same")
    return keras.Model([x_t, t], layers.Add()([shared(shared(x_t)), x_t]))


def with_attention_of_keras():
    """A layer that takes two tensors, not a list."""
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    return keras.Model([x_t, t], layers.MultiHeadAttention(1, 2)(x_t, x_t))


def with_two_inputs_of_one_layer():
    """The same tensor twice in a merge."""
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    x = layers.Dense(1)(x_t)
    return keras.Model([x_t, t], layers.Concatenate()([layers.Add()([x, x]), x_t, x]))


def with_dropout_that_stays():
    """Keras overrules what a layer was told when the network was built."""
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    return keras.Model([x_t, t], layers.Dropout(0.5)(layers.Dense(1)(x_t), training=True))


def points():
    return build_mlp(2, width=8, depth=2)


NETWORKS = [
    unet,
    points,
    with_arithmetic,
    with_a_shared_layer,
    with_attention_of_keras,
    with_two_inputs_of_one_layer,
    with_dropout_that_stays,
]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_the_output_is_that_of_the_network(build, policy):
    keras.config.set_dtype_policy(policy)
    network = build()
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.3, w.shape) for w in network.get_weights()])
    x_t = rng.normal(size=(2, *network.inputs[0].shape[1:])).astype("float32")
    inputs = [ops.convert_to_tensor(x_t), *(ops.convert_to_tensor([0, 2], "int32"),) * 2]
    inputs = inputs[: len(network.inputs)]
    found, expected = (
        network_function(network, training=False)(inputs),
        network(inputs, training=False),
    )
    assert found.dtype == expected.dtype
    expected = to_numpy(ops.cast(expected, "float32"))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(to_numpy(ops.cast(found, "float32")), expected)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_it_follows_the_weights(policy):
    keras.config.set_dtype_policy(policy)
    model = DiffusionModel(points(), GaussianDiffusion(8, beta_start=0.05, beta_end=0.8))
    before = model.generate(4, steps=2, seed=0)
    model.ema_network.set_weights([w + 0.5 for w in model.ema_network.get_weights()])
    after = model.generate(4, steps=2, seed=0)
    assert np.abs(after - before).max() > 0.01
    fresh = DiffusionModel(model.ema_network, model.diffusion)
    np.testing.assert_array_equal(after, fresh.generate(4, steps=2, seed=0))


def test_any_number_of_batch_sizes():
    run = network_function(network := with_a_shared_layer(), training=False)
    for size in [*range(1, 12), 1]:
        inputs = [ops.ones((size, 4, 4, 1)), ops.zeros(size, "int32")]
        np.testing.assert_array_equal(to_numpy(run(inputs)), to_numpy(network(inputs)))


# ---- training ---------------------------------------------------------------


def train(network, policy="float32", as_keras=False):
    """Weights after a few steps, with batches of two sizes."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    model = DiffusionModel(network(), GaussianDiffusion(8), seed=0)
    if as_keras:
        model.run_network = functools.partial(model.network, training=True)
    model.compile(keras.optimizers.SGD(0.1))
    x = np.random.default_rng(0).uniform(-1, 1, (5, *model.sample_shape)).astype("float32")
    y = np.arange(5) % 3 if model.num_classes else None
    losses = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"]
    return losses, [to_numpy(v) for v in model.network.trainable_variables]


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere it is Keras' way")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_it_learns_the_same(build, policy):
    found, expected = train(build, policy), train(build, policy, as_keras=True)
    assert found[0] == expected[0] and found[0][0] != found[0][1]
    for weight, wanted in zip(found[1], expected[1]):
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.parametrize(
    "layer", [lambda: layers.Dropout(0.5, seed=0), lambda: layers.BatchNormalization(momentum=0.5)]
)
def test_a_state_moves_on_in_training(layer):
    x_t, t = keras.Input((4,)), keras.Input((), dtype="int32")
    network = keras.Model([x_t, t], layer()(layers.Dense(8)(x_t)))
    inputs = [ops.reshape(ops.arange(12, dtype="float32"), (3, 4)), ops.zeros(3, "int32")]
    run = network_function(network, training=True)
    states = []
    for _ in range(3):
        run(inputs)
        states.append(
            np.concatenate([to_numpy(v).ravel() for v in network.non_trainable_variables])
        )
    assert (states[0] != states[1]).any() and (states[1] != states[2]).any()


def test_what_layers_add_to_the_loss_stays_in_it():
    def losses(regularizer):
        keras.utils.set_random_seed(0)
        x_t, t = keras.Input((4,)), keras.Input((), dtype="int32")
        x = layers.Dense(4, activity_regularizer=regularizer)(x_t)
        model = DiffusionModel(keras.Model([x_t, t], x), GaussianDiffusion(8, "cosine"), seed=0)
        model.compile(keras.optimizers.SGD(0.0))
        x = np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype("float32")
        history = model.fit(x, validation_data=(x,), epochs=4, verbose=0).history
        return np.array([history["loss"], history["val_loss"]])

    added = losses(keras.regularizers.L2(1.0)) - losses(None)
    assert (added > 0.1).all()
    np.testing.assert_allclose(
        losses(keras.regularizers.L2(2.0)) - losses(None), 2 * added, rtol=1e-4
    )
    np.testing.assert_allclose(added[1], added[1, 0], rtol=1e-4)  # always the same noise


# ---- what it is for ---------------------------------------------------------


@pytest.mark.skipif(BACKEND != "torch", reason="compilers see to it elsewhere")
@pytest.mark.parametrize("training", [True, False])
def test_keras_is_asked_once(training, monkeypatch):
    calls, call = [], keras.Layer.__call__

    def counted(layer, *args, **kwargs):
        calls.append(layer)
        return call(layer, *args, **kwargs)

    run = network_function(points(), training)
    monkeypatch.setattr(keras.Layer, "__call__", counted)
    inputs = [ops.ones((2, 2)), ops.zeros(2, "int32")]
    run(inputs)
    assert len(calls) > 10
    calls.clear()
    run(inputs)
    assert not calls


@pytest.mark.skipif(BACKEND != "torch", reason="compilers see to it elsewhere")
def test_no_more_tensors_are_kept_than_needed():
    kept, most = weakref.WeakSet(), []

    class Watch(layers.Layer):
        def call(self, x):
            gc.collect()  # calls of Keras layers leave cycles behind
            most.append(len(kept))
            x = x + 1
            kept.add(x)
            return x

    x_t = x = keras.Input((4,))
    skip = Watch()(x)
    x = skip
    for _ in range(3):
        x = Watch()(x)
    network = keras.Model([x_t], layers.Add()([x, skip]))
    network_function(network, training=False)([ops.ones((1, 4))])
    assert most[-4:] == [0, 1, 2, 2]  # the skip, and what the layer is about to read
    network([ops.ones((1, 4))])
    assert most[-4:] == [0, 1, 2, 3]
