"""PyTorch: a network recorded as a list of operations computes and learns what it does itself."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from tools import fit, make_model, random_weights, states, to_numpy

from keras_ddpm import MLP, UNet
from keras_ddpm.backend import network_function

if keras.backend.backend() != "torch":
    pytest.skip("other backends trace the network itself", allow_module_level=True)


def unet(dropout=0.0):
    return UNet(8, 1, (8, 16), (False, True), 1, 4, dropout=dropout, num_classes=3)


def functional(build):
    x_t, t = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    return keras.Model([x_t, t], build(x_t, t))


def with_a_shared_layer():
    shared = layers.Conv2D(1, 3, padding="same")
    return functional(lambda x, t: layers.Add()([shared(shared(x)), x]))


def with_dropout_outside_training():
    return functional(lambda x, t: layers.Dropout(0.5, seed=0)(layers.Dense(1)(x), training=True))


NETWORKS = [
    unet,
    functools.partial(unet, 0.5),
    functools.partial(MLP, 2, 8, 2),
    with_a_shared_layer,
    with_dropout_outside_training,
]
NAMES = ["unet", "unet_dropout", "mlp", *(build.__name__ for build in NETWORKS[3:])]


def inputs_of(network, count=3, seed=0):
    rng = np.random.default_rng(seed)
    x_t = rng.standard_normal((count, *network.inputs[0].shape[1:])).astype("float32")
    numbers = [ops.convert_to_tensor(np.arange(count) % 3, "int32")] * 2
    return [ops.convert_to_tensor(x_t), *numbers][: len(network.inputs)]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("build", NETWORKS, ids=NAMES)
def test_outputs_and_gradients_are_those_of_the_network(build, policy, dtype_policy):
    """Of a second batch, which a recording of the first would betray; in training as well."""
    dtype_policy(policy)
    for training in (False, True):
        results = []
        for recorded in (True, False):
            keras.utils.set_random_seed(0)
            network = random_weights(build())
            run = functools.partial(network, training=training)
            if recorded:
                run = network_function(network, training)
            run(inputs_of(network))
            network.set_weights([weight * 1.5 for weight in network.get_weights()])
            output = run(inputs_of(network, seed=1))
            assert np.abs(to_numpy(ops.cast(output, "float32"))).max() > 0.01
            (output.float() ** 2).mean().backward()
            gradients = [w.value.grad for w in network.trainable_variables]
            results.append([output.dtype, output, *gradients])
        for found, expected in zip(*results, strict=True):
            if isinstance(found, type(output)):
                found, expected = found.detach(), expected.detach()
                np.testing.assert_array_equal(found.float().numpy(), expected.float().numpy())
            else:
                assert found == expected


def test_any_number_of_batch_sizes():
    run = network_function(network := with_a_shared_layer(), training=False)
    for count in [*range(1, 12), 1]:
        inputs = inputs_of(network, count)
        np.testing.assert_array_equal(to_numpy(run(inputs)), to_numpy(network(inputs)))


@pytest.mark.parametrize(
    "layer", [lambda: layers.Dropout(0.5, seed=0), lambda: layers.BatchNormalization(momentum=0.5)]
)
def test_a_state_changes_with_every_step_of_training(layer):
    network = functional(lambda x, t: layer()(layers.Dense(8)(x)))
    run, found = network_function(network, training=True), []
    for _ in range(3):
        run(inputs_of(network))
        found.append([to_numpy(v).copy() for v in network.non_trainable_variables])
    for before, after in zip(found, found[1:]):
        assert any((a != b).any() for a, b in zip(before, after))


def test_training_is_that_of_the_network():
    """With batches of two sizes."""
    results = []
    for recorded in (True, False):
        network = random_weights(unet())
        model = make_model(optimizer=keras.optimizers.SGD(0.1), network=network)
        if not recorded:
            model._run_network = functools.partial(model.network, training=True)
        x = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1)).astype("float32")
        losses = fit(model, x, np.arange(5) % 3, batch_size=3, epochs=2)
        results.append((losses, states(model)))
    assert results[0][0] == results[1][0]
    for name, value in results[1][1].items():
        np.testing.assert_array_equal(results[0][1][name], value, err_msg=name)


@pytest.mark.parametrize("training", [True, False])
def test_layers_are_called_for_the_recording_only(training, monkeypatch):
    calls, call = [], keras.Layer.__call__

    def counted(layer, *args, **kwargs):
        calls.append(layer)
        return call(layer, *args, **kwargs)

    network = MLP(2, 8, 2)
    run = network_function(network, training)
    monkeypatch.setattr(keras.Layer, "__call__", counted)
    run(inputs_of(network))
    assert len(calls) > 10
    calls.clear()
    run(inputs_of(network))
    assert not calls
