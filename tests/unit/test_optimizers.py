"""`FusedAdam` takes the steps of `keras.optimizers.Adam`, with all its options."""

import keras
import numpy as np
import pytest
from keras import ops
from tools import (
    assert_same_states,
    distance,
    fit,
    fixed_draw,
    make_model,
    states,
    to_numpy,
)

from keras_ddpm import FusedAdam

STEPS = 5
DECAY = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.5)


def step(model, seed):
    """One step with random gradients, some of them tiny."""
    rng = np.random.default_rng(seed)
    shapes = [variable.shape for variable in model.trainable_variables]
    gradients = [rng.normal(0, 10 ** rng.uniform(-6, 1), shape) for shape in shapes]
    model.step_optimizer([ops.convert_to_tensor(g, "float32") for g in gradients])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning_rate": DECAY, "weight_decay": 0.1},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1},
        {"clipnorm": 0.1},
        {"clipvalue": 0.01},
        {"global_clipnorm": 0.1, "gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
        {"loss_scale_factor": 8.0},
    ],
    ids=lambda options: "_".join(options) or "default",
)
def test_the_steps_are_those_of_keras(options):
    options = {"learning_rate": 0.05, **options}
    fused, plain = (
        make_model(optimizer=optimizer(**options))
        for optimizer in (FusedAdam, keras.optimizers.Adam)
    )
    before = fused.network.get_weights()
    for i in range(STEPS):
        for model in (fused, plain):
            step(model, seed=i)
    weights, expected = (model.network.get_weights() for model in (fused, plain))
    assert distance(expected, before) > 0.01
    for found, wanted in zip(weights, expected, strict=True):
        # 1 - beta_2 in float32 is off by 5e-5.
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert int(to_numpy(fused.optimizer.iterations)) == int(to_numpy(plain.optimizer.iterations))
    shapes = [sorted(tuple(v.shape) for v in m.optimizer.variables) for m in (fused, plain)]
    assert shapes[0] == shapes[1]


def test_training_is_that_of_keras_and_goes_on_from_a_file(tmp_path):
    """Inside a compiled step, and with a rate that changes."""
    models = [make_model(optimizer=kind(DECAY)) for kind in (FusedAdam, keras.optimizers.Adam)]
    for model in models:
        model.draw = fixed_draw
    losses = [fit(model, epochs=2) for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    fused, plain = models
    assert distance(fused.network.get_weights(), plain.network.get_weights()) < 1e-4

    fused.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is FusedAdam
    assert loaded.optimizer.get_config() == fused.optimizer.get_config()
    assert_same_states(states(fused), states(loaded))
    loaded.draw = fixed_draw
    assert fit(fused) == fit(loaded)
    assert_same_states(states(fused), states(loaded))
