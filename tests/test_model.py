"""Training: what moves the weights and their average, what the loss is, what a seed fixes."""

import keras
import numpy as np
import pytest
from conftest import assert_same_states, random_weights, states, to_numpy
from keras import ops
from tiny_training import FLOATS, LABELS, Record, distance, fit, fixed_draw, make_model

from keras_ddpm import GaussianDiffusion
from keras_ddpm.batches import stratified_timesteps

# ---- the averaged weights ------------------------------------------------------------


def test_ema_follows_the_weights_with_a_warm_up():
    record = Record()
    fit(make_model(ema_decay=0.3), epochs=3, callbacks=[record])
    weights, averages = record.group("network"), record.group("ema")
    expected = [w.astype("float64") for w in weights[0]]
    for n, now in enumerate(weights[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))  # 2/11, 3/12, then 0.3
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, now)]
        for ours, theirs in zip(averages[n], expected):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert distance(weights[-1], averages[-1]) > 1e-4


def test_ema_waits_while_gradients_accumulate():
    record = Record()
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    fit(make_model(optimizer, ema_decay=0.3), epochs=3, callbacks=[record])
    for name in ("network", "ema"):
        found = record.group(name)
        moves = [distance(a, b) > 0 for a, b in zip(found, found[1:])]
        assert moves == [False, True] * 3, name
    weights, averages = record.group("network"), record.group("ema")
    decay = 2 / 11  # the first update, though the second batch
    for first, second, average in zip(weights[0], weights[2], averages[2]):
        np.testing.assert_allclose(average, decay * first + (1 - decay) * second, atol=1e-6)


def test_data_mean_is_the_mean_of_the_training_data():
    model = make_model()
    fit(model)
    np.testing.assert_allclose(to_numpy(model.data_mean), FLOATS.mean((0, 1, 2)), atol=1e-6)


def test_calling_the_model_asks_the_averaged_network():
    model = make_model()
    random_weights(model.network, seed=9)
    inputs = [FLOATS, np.full(8, 3, "int32")]
    ours, ema = to_numpy(model(inputs)), to_numpy(model.ema_network(inputs))
    np.testing.assert_array_equal(ours, ema)
    assert np.abs(ours - to_numpy(model.network(inputs))).max() > 1e-3


# ---- loss ------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_loss_compares_output_and_target(loss, prediction):
    diffusion = GaussianDiffusion(50, "cosine", prediction=prediction)
    model = make_model(diffusion=diffusion, compile_kwargs={"loss": loss, "run_eagerly": True})
    model.draw = fixed_draw
    random_weights(model.network, seed=9)  # evaluate asks the averaged weights, not these
    t, noise, _ = map(to_numpy, fixed_draw((8,)))
    signal = diffusion.alphas_cumprod[t][:, None, None, None]
    x_t = (np.sqrt(signal) * FLOATS + np.sqrt(1 - signal) * noise).astype("float32")
    target = {
        "noise": noise,
        "start": FLOATS,
        "velocity": np.sqrt(signal) * noise - np.sqrt(1 - signal) * FLOATS,
    }[prediction]
    error = to_numpy(model.ema_network([x_t, t])) - target
    small = np.abs(error) < 1
    expected = {
        "mse": error**2,
        "mae": np.abs(error),
        "huber": np.where(small, 0.5 * error**2, np.abs(error) - 0.5),
    }[loss].mean()
    found = model.evaluate(FLOATS, batch_size=8, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(fit(model)).all()


def test_an_image_of_weight_zero_does_not_train():
    weighted, without = (make_model(keras.optimizers.SGD(1.0), 3) for _ in range(2))
    changed, weights = FLOATS.copy(), np.float32([1, 1, 1, 1, 0, 0, 0, 0])
    changed[4:] = 0.5
    for model, x in ((weighted, FLOATS), (without, changed)):
        model.draw = fixed_draw
        # Keras drops sample weights where there are no labels.
        fit(model, x, LABELS, batch_size=8, sample_weight=weights)
    for ours, theirs in zip(weighted.network.get_weights(), without.network.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_training_timesteps_and_noise_are_uniform_and_normal():
    model = make_model()
    t, noise, _ = map(to_numpy, model.draw((5000, 2, 2, 1)))
    assert t.dtype == np.int32 and t.min() == 0 and t.max() == 49
    counts = np.bincount(t, minlength=50)
    assert ((counts - 100) ** 2 / 100).sum() < 49 + 5 * np.sqrt(2 * 49)  # chi-squared
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert noise.var() == pytest.approx(1, abs=5 * np.sqrt(2 / noise.size))


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.999, 0.99999994])
@pytest.mark.parametrize("batch, timesteps", [(1, 50), (8, 50), (100, 50), (7, 1000)])
def test_stratified_timesteps_take_one_from_each_part(batch, timesteps, offset):
    t = to_numpy(stratified_timesteps(batch, timesteps, offset))
    assert t.dtype == np.int32 and t.shape == (batch,)
    assert 0 <= t.min() and t.max() < timesteps
    by_hand = [
        min(int((i + offset) * timesteps / batch + 1e-4), timesteps - 1) for i in range(batch)
    ]
    assert t.tolist() == by_hand


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_label_dropout_drops_that_share_of_labels(share):
    model = make_model(num_classes=3, label_dropout=share)
    images, labels = np.zeros((4000, 8, 8, 1), "float32"), np.ones(4000, "int32")
    found = to_numpy(model.prepare_batch((ops.convert_to_tensor(images), labels))["label"])
    assert set(found) <= {1, 3}  # itself, or "no label"
    standard_error = np.sqrt(share * (1 - share) / 4000)
    assert abs((found == 3).mean() - share) <= 5 * standard_error
    validation = model.prepare_batch((ops.convert_to_tensor(images), labels), validation=True)
    assert set(to_numpy(validation["label"])) == {1}


# ---- reproducibility ------------------------------------------------------------


def test_the_same_seed_gives_the_identical_run_and_another_seed_does_not():
    losses, found = [], []
    for seed in (3, 3, 4):
        model = make_model(num_classes=3, dropout=0.2, seed=seed)
        losses.append(fit(model, FLOATS, LABELS, epochs=3))
        found.append(states(model))
    assert losses[0] == losses[1] != losses[2]
    assert_same_states(found[0], found[1])


def test_validation_is_the_same_each_time_and_does_not_disturb_training():
    def run(**kwargs):
        model = make_model(num_classes=3, dropout=0.2)
        history = model.fit(FLOATS, LABELS, 4, epochs=3, verbose=0, shuffle=False, **kwargs).history
        return model, history

    model, with_validation = run(validation_data=(FLOATS, LABELS))
    other, without = run()
    assert with_validation["loss"] == without["loss"]
    assert_same_states(states(model), states(other), ("network", "ema", "optimizer"))
    assert len(set(with_validation["val_loss"])) == 3  # the average does move
    first, second = (model.evaluate(FLOATS, LABELS, batch_size=4, verbose=0) for _ in range(2))
    assert first == second == pytest.approx(with_validation["val_loss"][-1], rel=1e-6)


def test_generate_between_epochs_does_not_disturb_training():
    class Generate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.generate(2, steps=2, sampler="ddpm", seed=0)

    model, other = make_model(dropout=0.2), make_model(dropout=0.2)
    losses = fit(model, epochs=2, callbacks=[Generate()]), fit(other, epochs=2)
    assert losses[0] == losses[1]
    assert_same_states(states(model), states(other))
