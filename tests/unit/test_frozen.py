"""Layers that are frozen, and changes of weights that a model cannot follow."""

import keras
import numpy as np
import pytest
from tools import (
    BACKEND,
    FLOATS,
    assert_same_states,
    fit,
    make_model,
    random_weights,
    states,
    tiny_network,
    to_numpy,
)

from keras_ddpm import MLP, DiffusionModel
from keras_ddpm.diffusers import to_diffusers

POINTS = FLOATS.reshape(-1, 2)[:8]


def mlp():
    """A network whose config is not that of its layers."""
    return random_weights(MLP(2, 8, 1))


def moved(model, x=FLOATS):
    """The names of the weights that two epochs change, of the network and of the average."""
    networks = model.network, model.ema_network
    before = [{w.path: to_numpy(w).copy() for w in network.weights} for network in networks]
    fit(model, x, epochs=2)
    return [
        {w.path for w in network.weights if np.any(to_numpy(w) != old[w.path])}
        for network, old in zip(networks, before)
    ]


def test_layers_of_a_frozen_network_that_are_released_are_trained():
    network = tiny_network()
    network.trainable = False
    layer = network.layers[-1]
    layer.trainable = True
    model = make_model(network=network)
    assert [weight.path for weight in model.trainable_variables] == [w.path for w in layer.weights]
    trained, averaged = moved(model)
    assert trained == averaged == {weight.path for weight in layer.weights}


def test_frozen_layers_are_still_frozen_in_a_file_and_in_a_copy(tmp_path):
    network = mlp()
    network.get_layer("dense_in").trainable = False
    model = make_model(network=network)
    fit(model, POINTS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_states(states(loaded), states(model))
    frozen = {weight.path for weight in network.get_layer("dense_in").weights}
    trained, averaged = moved(loaded, POINTS)
    assert trained == averaged == {weight.path for weight in network.weights} - frozen
    copy = model.with_dtype_policy("mixed_bfloat16")
    assert {w.path for w in copy.network.weights if not w.trainable} == frozen


@pytest.mark.parametrize("steps_per_execution", [1, 2] if BACKEND != "torch" else [1])
def test_layers_may_be_released_between_compile_and_the_first_step(steps_per_execution):
    model = make_model(compile={"steps_per_execution": steps_per_execution})
    model.network.trainable = False
    layer = model.network.layers[-1]
    layer.trainable = True
    trained, averaged = moved(model)
    assert trained == averaged == {weight.path for weight in layer.weights}


def test_freezing_after_the_first_step_needs_another_compile():
    model = make_model()
    fit(model)
    before = states(model)
    model.network.layers[-1].trainable = False
    for train in (fit, lambda model: model.train_on_batch(FLOATS)):
        with pytest.raises(ValueError, match="since the first step: call `compile` again"):
            train(model)
        model.trainable = False
        with pytest.raises(ValueError, match="has no trainable weights: set `trainable = T"):
            train(model)
        model.trainable = True
        model.network.layers[-1].trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        model.trainable = False
        model.compile()
    assert_same_states(states(model), before)


def test_layers_are_frozen_and_released_again_with_a_compile_each():
    model = make_model()
    fit(model)
    layer = model.network.layers[-1]
    for trainable in (False, True):
        layer.trainable = trainable
        model.compile(keras.optimizers.Adam(1e-2))
        trained, _ = moved(model)
        assert (layer.kernel.path in trained) is trainable and len(trained) > 2


def test_the_averaged_network_stays_frozen():
    model = make_model()
    model.trainable = False
    model.trainable = True
    model.ema_network.trainable = True
    model.compile(keras.optimizers.Adam(1e-2))
    assert not model.ema_network.trainable_weights
    assert len(model.trainable_variables) == len(model.network.weights)
    assert np.isfinite(fit(model)).all()


def test_a_weight_that_is_not_of_the_network_is_refused():
    model = make_model()
    model.extra = keras.layers.Dense(3)
    model.extra.build((None, 2))
    with pytest.raises(ValueError, match="'dense.*kernel' is not one of the network"):
        model.compile()


@pytest.mark.once
def test_enable_lora_and_quantize_are_refused(tmp_path):
    def with_lora(network):
        network.get_layer("time_dense_1").enable_lora(2)
        return network

    message = "cannot follow what enable_lora of a layer and quantize do"
    with pytest.raises(ValueError, match='mode=\'int8\': .* format="litert", dtype="int8"'):
        make_model(network=mlp()).quantize("int8")
    with pytest.raises(ValueError, match=f"network='mlp' has weights of its own: .*{message}"):
        DiffusionModel(with_lora(mlp()))
    lora, int8 = make_model(network=mlp()), make_model(network=mlp())
    with_lora(lora.network)
    int8.ema_network.quantize("int8")
    for model in (lora, int8):
        for act in (
            fit,
            lambda model: model.generate(1, steps=1),
            lambda model: model.save(tmp_path / "model.keras"),
            lambda model: model.save_to_preset(tmp_path / "preset"),
            lambda model: model.evaluate(POINTS),
            lambda model: to_diffusers(model, tmp_path / "diffusers"),
            lambda model: model.export(tmp_path / "exported"),
        ):
            with pytest.raises(ValueError, match=f"the network has other .*{message}"):
                act(model)
    assert not list(tmp_path.rglob("*.keras")) and not list(tmp_path.rglob("config.json"))


@pytest.mark.once
def test_networks_that_are_no_denoisers_are_refused():
    x_t, t = keras.Input((8, 8, 1)), keras.Input((), dtype="int32")
    label = keras.Input((), dtype="int32")
    wide = keras.layers.Conv2D(2, 3, padding="same")(x_t)
    for network, message in (
        (keras.Model([x_t, t], wide), r"outputs of shapes .*2\)\], but needs one like its first"),
        (keras.Model([x_t, t], [x_t, x_t]), "outputs of shapes"),
        (keras.Model([x_t, t, label], x_t), 'no Embedding layer named "label_embedding"'),
        (keras.Sequential([keras.layers.Dense(1)]), "must be a functional keras.Model"),
        (tiny_network, "must be a functional keras.Model"),
    ):
        with pytest.raises(ValueError, match=f"^network=.*{message}"):
            DiffusionModel(network)
