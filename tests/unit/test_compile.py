"""What `compile` is given: several steps at once, XLA, precision, and what it refuses."""

import keras
import numpy as np
import pytest
from tools import BACKEND, FLOATS, distance, fit, fixed_draw, make_model, tiny_network

from keras_ddpm import DiffusionModel, FusedAdam


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles for minutes, or allows one step")
def test_compiled_models_train_and_sample_as_an_eager_one():
    """Also where an epoch ends with fewer steps than are executed at once."""
    three_batches, results = np.tile(FLOATS, (2, 1, 1, 1))[:12], []
    compiled = ({"jit_compile": True}, {"jit_compile": False}, {"steps_per_execution": 2})
    for options in ({"run_eagerly": True}, *compiled):
        model = make_model(compile=options)
        model.draw = fixed_draw
        results.append([fit(model, three_batches), model.generate(2, steps=3, seed=0)])
    for losses, samples in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-4)
        np.testing.assert_allclose(samples, results[0][1], atol=1e-3)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_loss_falls_under_each_policy(policy, dtype_policy):
    dtype_policy(policy)
    model = make_model(optimizer=FusedAdam(1e-2), ema_decay=0.5)
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    model.draw = fixed_draw
    losses = fit(model, np.tile(FLOATS, (2, 1, 1, 1)), epochs=10)
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    weights, averages = model.network.get_weights(), model.ema_network.get_weights()
    assert all(weight.dtype == np.float32 for weight in weights)
    assert 0 < distance(weights, averages) < 0.1  # the average followed
    assert model.generate(2, steps=2, seed=0).dtype == np.float32


@pytest.mark.once
def test_weights_that_cannot_be_trained_are_refused(dtype_policy):
    network = tiny_network()
    dtype_policy("bfloat16")
    with pytest.raises(ValueError, match='is bfloat16, too coarse .*"mixed_bfloat16"'):
        make_model()
    network.trainable = False
    model = DiffusionModel(network)
    with pytest.raises(ValueError, match="has no trainable weights"):
        model.compile()
    assert model.generate(1, steps=1, seed=0).shape == (1, 8, 8, 1)  # but samples


def test_frozen_layers_keep_their_weights_and_the_others_train():
    network = tiny_network()
    frozen = [layer for layer in network.layers if layer.weights][0]
    frozen.trainable = False
    model = make_model(network=network)
    before = network.get_weights()
    fit(model)
    same = [np.array_equal(a, b) for a, b in zip(before, network.get_weights())]
    assert sum(same) == len(frozen.weights)
