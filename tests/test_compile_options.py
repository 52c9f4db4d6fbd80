"""What `compile` is given: precision, optimizers, several steps at once, jit."""

import functools

import keras
import numpy as np
import pytest
from conftest import states
from keras import ops
from tiny_training import FLOATS, Record, distance, fit, fixed_draw, make_model

from keras_ddpm import build_unet

BACKEND = keras.backend.backend()


@pytest.mark.skipif(BACKEND == "torch", reason="Keras allows one step per execution on torch")
def test_several_steps_per_execution_change_no_loss():
    one, two = make_model(), make_model(compile_kwargs={"steps_per_execution": 2})
    losses = fit(one, epochs=2), fit(two, epochs=2)
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes minutes for a toy network")
@pytest.mark.parametrize("jit_compile", [True, False])
def test_jit_compile_trains_and_samples(jit_compile):
    model = make_model(compile_kwargs={"jit_compile": jit_compile})
    model.draw = fixed_draw  # XLA draws other numbers than plain TensorFlow
    reference = make_model(compile_kwargs={"run_eagerly": True})
    reference.draw = fixed_draw
    np.testing.assert_allclose(fit(model, epochs=2), fit(reference, epochs=2), rtol=1e-4)
    images = [m.generate(2, steps=3, seed=0) for m in (model, reference)]
    np.testing.assert_allclose(*images, atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_the_loss_falls(policy, dtype_policy):
    dtype_policy(policy)
    model = make_model(ema_decay=0.5)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    model.draw = fixed_draw
    losses = fit(model, np.tile(FLOATS, (2, 1, 1, 1)), epochs=10)
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    assert all(w.dtype == np.float32 for w in model.network.get_weights())
    weights, averages = model.network.get_weights(), model.ema_network.get_weights()
    assert distance(weights, averages) < 0.1  # the average followed
    assert model.generate(2, steps=2, seed=0).dtype == np.float32


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_too_coarse_to_train_are_refused(policy, dtype_policy):
    dtype_policy(policy)
    with pytest.raises(ValueError, match=f'is {policy}, too coarse .* "mixed_{policy}"'):
        make_model()


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_float64_weights_train_and_are_averaged(dtype_policy):
    dtype_policy("float64")
    model = make_model(ema_decay=0.5)
    before = model.network.get_weights()
    assert np.isfinite(fit(model, epochs=2)).all()
    weights, averages = model.network.get_weights(), model.ema_network.get_weights()
    assert distance(weights, before) > distance(weights, averages) > 0


class PlainAdam(keras.optimizers.Adam):
    """Keras' own step on every backend: what a backend does quicker is for Adam itself."""


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1},
        {"amsgrad": True},
        {"clipnorm": 0.1, "gradient_accumulation_steps": 2},
    ],
)
def test_adam_takes_the_step_of_keras(options):
    """The same gradients to both, some of them tiny."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.5)
    unet = functools.partial(build_unet, 8, 1, (8, 16), (False, True), 1, num_heads=2)
    quick, plain = (
        make_model(optimizer(rate, **options), num_classes=3, make_network=unet)
        for optimizer in (keras.optimizers.Adam, PlainAdam)
    )
    rng = np.random.default_rng(0)
    for _ in range(5):
        shapes = [v.shape for v in quick.network.trainable_variables]
        gradients = [rng.normal(0, 10 ** rng.uniform(-6, 1), shape) for shape in shapes]
        for model in (quick, plain):
            model.step_optimizer([ops.convert_to_tensor(g, "float32") for g in gradients])
    assert not {"update_step", "_parallel_update_step"} & {*vars(quick.optimizer)}
    found, expected = states(quick), states(plain)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # 1 - beta_2 in float32 is off by 5e-5.
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=3e-6, err_msg=name)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch has strides")
def test_adams_moments_lie_as_their_weights_from_the_start():
    model = make_model(make_network=functools.partial(build_unet, 8, 1, (8, 16), (False, True), 1))
    adam = model.optimizer
    for kind in (adam._momentums, adam._velocities):
        for moment, weight in zip(kind, model.network.trainable_variables, strict=True):
            strides = zip(weight.shape, moment.value.stride(), weight.value.stride())
            assert all(size == 1 or one == other for size, one, other in strides)


def test_clipnorm_and_a_learning_rate_schedule_rule_the_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.0])
    record = Record()
    fit(make_model(keras.optimizers.SGD(schedule, clipnorm=1e-3)), epochs=2, callbacks=[record])
    moves = [
        [np.linalg.norm(b - a) for a, b in zip(before, after)]
        for before, after in zip(record.group("network"), record.group("network")[1:])
    ]
    assert 0 < max(moves[0]) <= 0.5 * 1e-3 * 1.001
    assert max(moves[2]) == 0  # the rate is zero from the third step on
