"""A network run for inference says what it says otherwise, whatever it is made of."""

import gc
import weakref

import keras
import numpy as np
import pytest
from conftest import to_numpy
from keras import layers, ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp, build_unet
from keras_ddpm.backend import inference_function


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
    found, expected = inference_function(network)(inputs), network(inputs, training=False)
    assert found.dtype == expected.dtype
    expected = to_numpy(ops.cast(expected, "float32"))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(to_numpy(ops.cast(found, "float32")), expected)


def test_it_follows_the_weights():
    model = DiffusionModel(points(), GaussianDiffusion(8, beta_start=0.05, beta_end=0.8))
    before = model.generate(4, steps=2, seed=0)
    model.ema_network.set_weights([w + 0.5 for w in model.ema_network.get_weights()])
    assert np.abs(model.generate(4, steps=2, seed=0) - before).max() > 0.01


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="compilers see to it elsewhere")
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
    inference_function(network)([ops.ones((1, 4))])
    assert most[-4:] == [0, 1, 2, 2]  # the skip, and what the layer is about to read
    network([ops.ones((1, 4))])
    assert most[-4:] == [0, 1, 2, 3]
