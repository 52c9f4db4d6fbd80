"""Training: what changes the weights and their average, what the loss is, what a seed fixes."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.stats import norm
from tools import (
    FLOATS,
    LABELS,
    Record,
    assert_same_states,
    distance,
    fit,
    fixed_draw,
    make_model,
    random_weights,
    states,
    to_numpy,
)

from keras_ddpm import GaussianDiffusion, SampleImages
from keras_ddpm.model.batches import stratified_timesteps


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_average_follows_the_weights_with_a_warm_up(accumulated):
    """And waits with them while gradients accumulate."""
    record, steps = Record(), accumulated if accumulated > 1 else None
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=steps)
    model = make_model(optimizer=optimizer, ema_decay=0.5)
    fit(model, epochs=3, callbacks=[record])
    weights, averages = record.group("network"), record.group("ema")
    expected, updates = [w.astype("float64") for w in weights[0]], 0
    for batch in range(1, 7):
        moved = distance(weights[batch - 1], weights[batch]) > 0
        assert moved == (batch % accumulated == 0)
        if moved:
            updates += 1
            decay = min(0.5, 1 - (1 + updates) ** -0.75)  # 0.41, then 0.5
            expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights[batch])]
        *network, count, data_mean = averages[batch]
        assert distance(network, expected) < 1e-6
    assert count == updates == 6 / accumulated
    assert distance(weights[-1], network) > 1e-4
    if accumulated == 1:
        np.testing.assert_allclose(data_mean, FLOATS.mean((0, 1, 2)), atol=1e-6)


def test_compile_and_presets_go_on_with_the_average(tmp_path):
    """A new optimizer counts from 0, but the model does not."""
    model = make_model()
    fit(model, epochs=30)
    assert int(to_numpy(model.updates)) == 60
    other = type(model).from_preset(model.save_to_preset(tmp_path / "preset", dtype="float32"))
    random_weights(other.network, seed=9)
    for one in (model, other):
        one.compile(keras.optimizers.SGD(0.0))
        before, trained = one.ema_network.get_weights(), one.network.get_weights()
        data_mean = to_numpy(one.data_mean).copy()
        fit(one, FLOATS, batch_size=8)
        for old, new, weight in zip(before, one.ema_network.get_weights(), trained):
            share = 62**-0.75  # 5 % of the way to the trained weights
            np.testing.assert_allclose(new, old + share * (weight - old), atol=1e-6)
        expected = data_mean + (FLOATS.mean((0, 1, 2)) - data_mean) / 61
        np.testing.assert_allclose(to_numpy(one.data_mean), expected, atol=1e-6)


def test_a_call_asks_the_averaged_network_and_in_training_the_other():
    model = make_model()
    random_weights(model.network, seed=9)
    inputs = [FLOATS, np.full(8, 3, "int32")]
    averaged, trained = (to_numpy(n(inputs)) for n in (model.ema_network, model.network))
    np.testing.assert_array_equal(to_numpy(model(inputs)), averaged)
    np.testing.assert_array_equal(to_numpy(model(inputs, training=True)), trained)
    assert np.abs(averaged - trained).max() > 1e-3


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_loss_compares_output_and_target(loss):
    prediction = {"mse": "noise", "mae": "start", "huber": "velocity"}[loss]
    diffusion = GaussianDiffusion(50, "cosine", prediction=prediction)
    model = make_model(diffusion=diffusion, compile={"loss": loss, "run_eagerly": True})
    model.draw = fixed_draw
    random_weights(model.network, seed=9)  # `evaluate` asks the averaged weights, not these
    t, noise, _ = map(to_numpy, fixed_draw(FLOATS.shape))
    signal = diffusion.alphas_cumprod[t][:, None, None, None]
    x_t = (np.sqrt(signal) * FLOATS + np.sqrt(1 - signal) * noise).astype("float32")
    target = {
        "noise": noise,
        "start": FLOATS,
        "velocity": np.sqrt(signal) * noise - np.sqrt(1 - signal) * FLOATS,
    }[prediction]
    error = np.abs(to_numpy(model.ema_network([x_t, t])) - target)
    expected = {
        "mse": error**2,
        "mae": error,
        "huber": np.where(error < 1, 0.5 * error**2, error - 0.5),
    }[loss].mean()
    found = model.evaluate(FLOATS, batch_size=8, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_image_of_weight_zero_does_not_train():
    weighted, without = (make_model(3, keras.optimizers.SGD(1.0)) for _ in range(2))
    changed, weights = FLOATS.copy(), np.float32([1, 1, 1, 1, 0, 0, 0, 0])
    changed[4:] = 0.5
    for model, x in ((weighted, FLOATS), (without, changed)):
        model.draw = fixed_draw
        fit(model, x, LABELS, batch_size=8, sample_weight=weights)
    assert distance(weighted.network.get_weights(), without.network.get_weights()) < 1e-4


def test_losses_and_states_of_layers_take_part():
    """Of an activity regularizer, in training and validation, and of batch normalisation."""

    def run(regularizer, normalization):
        x_t, t = keras.Input((4,)), keras.Input((), dtype="int32")
        x = layers.Dense(4, activity_regularizer=regularizer)(x_t)
        network = random_weights(keras.Model([x_t, t], normalization(x)))
        network.set_weights([np.abs(weight) for weight in network.get_weights()])  # variances
        model = make_model(optimizer=keras.optimizers.SGD(0.0), network=network, ema_decay=0.5)
        before = states(model)
        x = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype("float32")
        history = model.fit(x, validation_data=(x,), batch_size=8, verbose=0).history
        return np.array([history["loss"], history["val_loss"]]), before, states(model)

    losses, _, _ = run(keras.regularizers.L2(100.0), layers.Identity())
    without, before, after = run(None, layers.BatchNormalization())
    assert (losses > 50).all() and (without < 5).all()
    moved = {name for name in before if (before[name] != after[name]).any()}
    averages = {name.replace("network", "ema") for name in moved if name.startswith("network")}
    assert len(averages) == 2 and averages < moved  # moving mean and variance


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_timesteps_and_noise_of_training_have_their_distributions(distribution):
    model = make_model(timestep_distribution=distribution)
    t, noise, _ = map(to_numpy, model.draw((5000, 2, 2, 1)))
    assert t.dtype == np.int32 and t.min() >= 0 and t.max() <= 49
    edges = np.arange(1, 50) / 50  # P(t < 50 s) is s, or Φ(log(s / (1 - s)))
    below = edges if distribution == "uniform" else norm.cdf(np.log(edges / (1 - edges)))
    expected = 5000 * np.diff(below, prepend=0, append=1)
    assert (expected.argmax() in (24, 25)) == (distribution == "logit_normal")
    counts = np.bincount(t, minlength=50)
    often = expected > 5
    chi_squared = ((counts - expected) ** 2 / expected)[often].sum()
    assert chi_squared < often.sum() + 5 * np.sqrt(2 * often.sum())
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.var() == pytest.approx(1, abs=5 * np.sqrt(2 / noise.size))


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.99999994])
@pytest.mark.parametrize("batch, timesteps", [(1, 50), (100, 50), (7, 1000)])
def test_stratified_timesteps_take_one_from_each_part(batch, timesteps, offset):
    t = to_numpy(stratified_timesteps(batch, timesteps, offset))
    assert t.dtype == np.int32 and t.shape == (batch,)
    by_hand = [int((i + offset) * timesteps / batch + 1e-4) for i in range(batch)]
    assert t.tolist() == [min(step, timesteps - 1) for step in by_hand]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_label_dropout_drops_that_share_of_labels(share):
    model = make_model(3, label_dropout=share)
    data = ops.zeros((4000, 8, 8, 1)), ops.ones(4000, "int32")
    found = to_numpy(model.prepare_batch(data)["label"])
    assert set(found) <= {1, 3}  # itself, or "no label"
    standard_error = np.sqrt(share * (1 - share) / 4000)
    assert abs((found == 3).mean() - share) <= 5 * standard_error
    assert set(to_numpy(model.prepare_batch(data, validation=True)["label"])) == {1}


def run(seed, **kwargs):
    """A training with dropout: the model, its history, and all states after it."""
    model = make_model(3, dropout=0.2, seed=seed)
    options = {"batch_size": 4, "epochs": 3, "verbose": 0, "shuffle": False}
    history = model.fit(FLOATS, LABELS, **options, **kwargs).history
    return model, history, states(model)


def test_a_seed_fixes_the_run_which_validation_and_sampling_do_not_disturb():
    """Validation draws the same noise each time."""
    (_, without, expected), (_, again, same), (_, other, _) = (run(seed) for seed in (3, 3, 4))
    assert without["loss"] == again["loss"] != other["loss"]
    assert_same_states(expected, same)
    samples = SampleImages(num_images=2, steps=2, sampler="ddpm")
    model, history, found = run(3, callbacks=[samples], validation_data=(FLOATS, LABELS))
    assert history["loss"] == without["loss"]
    assert_same_states(found, expected, ("network", "ema", "optimizer"))
    assert len(set(history["val_loss"])) == 3  # the average has changed
    first, second = (model.evaluate(FLOATS, LABELS, batch_size=4, verbose=0) for _ in range(2))
    assert first == second == pytest.approx(history["val_loss"][-1], rel=1e-6)
