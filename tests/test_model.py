"""Training: what moves the weights and their average, what is refused, what is saved."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import assert_same_states, random_weights, states, tiny_network, to_numpy
from keras import ops

import keras_ddpm
from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet
from keras_ddpm.batches import stratified_timesteps

BACKEND = keras.backend.backend()
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")
FLOATS = IMAGES.astype("float32") / 127.5 - 1
LABELS = np.arange(8, dtype="int32") % 3
IMAGES.setflags(write=False)


def make_model(optimizer=None, num_classes=None, dropout=0.0, seed=0, compile_kwargs=(), **kwargs):
    keras.utils.set_random_seed(0)
    diffusion = kwargs.pop("diffusion", None) or GaussianDiffusion(50, "cosine")
    make_network = kwargs.pop("make_network", tiny_network)
    network = make_network(num_classes=num_classes, dropout=dropout)
    model = DiffusionModel(network, diffusion, seed=seed, **kwargs)
    model.compile(optimizer or keras.optimizers.Adam(1e-2), **dict(compile_kwargs))
    return model


def fit(model, x=FLOATS, y=None, batch_size=4, **kwargs):
    return model.fit(x, y, batch_size, verbose=0, shuffle=False, **kwargs).history["loss"]


class Record(keras.callbacks.Callback):
    """Keeps every state before training and after each batch."""

    def on_train_begin(self, logs=None):
        self.states = [states(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(states(self.model))

    def group(self, name):
        return [[v for k, v in s.items() if k.startswith(name)] for s in self.states]


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b))


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


# ---- faults change nothing ------------------------------------------------------------


def test_a_nan_weight_raises_and_changes_nothing():
    model = make_model()
    weights = model.network.get_weights()
    weights[0][0] = np.nan
    model.network.set_weights(weights)
    before = states(model)
    with pytest.raises(FloatingPointError, match="diverged.*lower learning rate"):
        fit(model)
    assert_same_states(before, states(model), ("network", "ema", "optimizer"))


def test_divergence_keeps_the_weights_before_the_faulty_step():
    model, record = make_model(keras.optimizers.SGD(1e25)), Record()
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(model, batch_size=2, callbacks=[record])
    assert len(record.states) == 5
    assert distance(*record.group("network")[:2]) > 1e10
    for later in record.states[2:] + [states(model)]:
        assert_same_states(record.states[1], later, ("network", "ema", "optimizer"))


def test_a_fault_in_mid_epoch_survives_the_validation_after_it():
    model, wrong = make_model(), FLOATS.copy()
    wrong[5] = 200.0
    with pytest.raises(ValueError, match="x holds values from .* to 200"):
        fit(model, wrong, validation_data=FLOATS)
    fit(model)  # and correct data train again


@pytest.mark.parametrize(
    "num_classes, x, y, message",
    [
        (None, IMAGES.astype("float32"), None, "x holds values from 0 to 255 .*pass them as uint8"),
        (None, FLOATS * np.nan, None, "or NaN"),
        (None, np.where(np.arange(8)[:, None, None, None] == 3, np.inf, FLOATS), None, "inf"),
        (None, FLOATS * 1.01, None, "x holds values from -1.01 to 1.01"),
        (3, FLOATS, LABELS + 1, "labels run from 1 to 3 .*num_classes=3: use 0 to 2.*labels - 1"),
        (3, FLOATS, LABELS - 1, "labels run from -1 to 1 "),
        (None, FLOATS, LABELS, "unconditional network.*num_classes"),
        (3, FLOATS, None, "num_classes=3, but the data have no labels"),
        (None, FLOATS.repeat(3, -1), None, r"shape \(8, 8, 3\), .*built for \(8, 8, 1\)"),
        (None, FLOATS[:, :6], None, r"shape \(6, 8, 1\), .*built for \(8, 8, 1\)"),
        (None, IMAGES.astype("int64"), None, "x has dtype int.*give uint8, or float"),
        (3, FLOATS, np.eye(3, dtype="int32")[LABELS], "one-hot labels use `labels.argmax"),
        (3, FLOATS, LABELS.astype("float32"), "labels have dtype float32.*ints"),
    ],
)
def test_wrong_data_raise_and_change_nothing(num_classes, x, y, message):
    model = make_model(num_classes=num_classes)
    before = states(model)
    with pytest.raises((ValueError, TypeError), match=message):
        fit(model, x, y)
    assert_same_states(before, states(model), ("network", "ema", "optimizer"))


def test_wrong_validation_data_raise_and_right_ones_work_afterwards():
    model, wrong = make_model(), IMAGES.astype("float32")
    with pytest.raises(ValueError, match="to 255 .*evaluation data"):
        model.evaluate(wrong, verbose=0)
    with pytest.raises(ValueError, match="to 255 .*evaluation data"):
        fit(model, validation_data=wrong)
    fit(model, validation_data=FLOATS)
    assert np.isfinite(model.evaluate(FLOATS, verbose=0))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"ema_decay": 1.0}, r"ema_decay must be a number in \[0, 1\), got 1.0"),
        ({"label_dropout": -0.1}, r"label_dropout must be a number in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_shares_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DiffusionModel(tiny_network(), **kwargs)


# ---- loss ------------------------------------------------------------


def fixed_draw(shape, validation=False):
    rng = np.random.default_rng(7)
    t = np.linspace(0, 49, shape[0]).astype("int32")
    noise = rng.standard_normal((shape[0], 8, 8, 1)).astype("float32")
    return ops.convert_to_tensor(t), ops.convert_to_tensor(noise), ops.zeros((shape[0],), "bool")


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


# ---- sources of data ------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(array[4 * index : 4 * index + 4] for array in self.arrays)


def as_tf_data(*arrays):
    if BACKEND == "torch":
        pytest.importorskip("tensorflow")
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(4)


def as_data_loader(*arrays):
    data = pytest.importorskip("torch.utils.data")
    import torch

    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return data.DataLoader(data.TensorDataset(*tensors), batch_size=4)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("source", [Batches, as_tf_data, as_data_loader])
def test_every_source_trains_as_numpy_does(source, num_classes):
    arrays = (IMAGES,) if num_classes is None else (IMAGES, LABELS)
    model, reference = (make_model(num_classes=num_classes) for _ in range(2))
    dataset = source(*arrays)
    model.fit(dataset, epochs=2, verbose=0, validation_data=dataset)
    fit(reference, *arrays, epochs=2)
    for ours, theirs in zip(model.network.get_weights(), reference.network.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the thread that tunes is TensorFlow's")
@pytest.mark.parametrize("source", [None, Batches, as_tf_data])
def test_nothing_that_fit_would_wait_for_tunes_the_batches(source, monkeypatch):
    import tensorflow as tf

    tuned, iterate = [], tf.data.Dataset.__iter__

    def look(dataset):
        tuned.append(dataset.options().autotune.enabled)
        return iterate(dataset)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", look)
    data = IMAGES if source is None else source(IMAGES)
    validation = (FLOATS, None) if source is None else source(FLOATS)
    model = make_model()
    model.fit(data, batch_size=4, epochs=2, verbose=0, validation_data=validation)
    model.evaluate(data, batch_size=4, verbose=0)
    assert len(tuned) >= 5 and set(tuned) == {False}

    tuned.clear()
    options = tf.data.Options()
    options.autotune.enabled = True
    model.fit(as_tf_data(IMAGES).with_options(options), verbose=0)
    assert set(tuned) == {True}  # who asks for it has it


def test_uint8_and_the_same_pixels_as_floats_train_identically():
    model, reference = make_model(), make_model()
    losses = fit(model, IMAGES, epochs=2), fit(reference, FLOATS, epochs=2)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(model.network.get_weights(), reference.network.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_points_of_any_range_train():
    x, t = keras.Input((2,)), keras.Input((), dtype="int32")
    time = keras_ddpm.layers.TimeEmbedding(4)(t)
    output = keras.layers.Dense(2)(keras.layers.Concatenate()([x, time]))
    model = DiffusionModel(keras.Model([x, t], output), GaussianDiffusion(50, "cosine"), seed=0)
    model.compile("adam")
    points = np.random.default_rng(0).normal(5, 3, (8, 2)).astype("float32")
    assert np.isfinite(fit(model, points)).all()
    assert model.generate(3, steps=2, seed=0).shape == (3, 2)
    with pytest.raises(ValueError, match="points must be finite"):
        fit(model, np.where(np.arange(2) == 1, np.inf, points))


# ---- compile options ------------------------------------------------------------


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


# ---- saving ------------------------------------------------------------

IN_A_FRESH_PROCESS = """
import sys
import keras
import numpy as np
import keras_ddpm
from conftest import states

model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[2], data_mean=model.data_mean.numpy(), **states(model))
"""


def trained(num_classes=3):
    model = make_model(num_classes=num_classes, dropout=0.2, seed=5)
    fit(model, FLOATS, LABELS if num_classes else None, epochs=2)
    return model


def test_a_saved_model_loads_in_a_fresh_process_with_every_state(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, tmp_path / "model.keras", tmp_path / "s.npz"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        check=True,
    )
    found, expected = dict(np.load(tmp_path / "s.npz")), states(model)
    np.testing.assert_array_equal(found.pop("data_mean"), to_numpy(model.data_mean))
    assert_same_states(found, expected)
    assert distance(model.network.get_weights(), model.ema_network.get_weights()) > 1e-4


def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [fit(m, FLOATS, LABELS, epochs=2) for m in (model, loaded)]
    assert losses[0] == losses[1]
    assert_same_states(states(model), states(loaded))
    images = [m.generate(labels=[0, 1], steps=3, seed=0) for m in (model, loaded)]
    np.testing.assert_array_equal(*images)


def test_options_survive_saving(tmp_path):
    diffusion = GaussianDiffusion(betas=[0.2, 0.5, 0.99], prediction="velocity", variance="beta")
    model = make_model(diffusion=diffusion, num_classes=3, ema_decay=0.7, label_dropout=0.4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.diffusion.get_config() == diffusion.get_config()
    assert (loaded.ema_decay, loaded.label_dropout, loaded.num_classes) == (0.7, 0.4, 3)
    assert loaded.loss == "mse"


@pytest.mark.parametrize("choice", ["auto", False])
def test_a_file_leaves_jit_compile_to_the_next_backend_unless_chosen(tmp_path, choice):
    model = make_model(compile_kwargs={"jit_compile": choice})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_compile_config()["jit_compile"] == choice
    assert loaded.jit_compile == model.jit_compile


def test_calling_the_model_asks_the_averaged_network():
    model = make_model()
    random_weights(model.network, seed=9)
    inputs = [FLOATS, np.full(8, 3, "int32")]
    ours, ema = to_numpy(model(inputs)), to_numpy(model.ema_network(inputs))
    np.testing.assert_array_equal(ours, ema)
    assert np.abs(ours - to_numpy(model.network(inputs))).max() > 1e-3


def test_sample_weights_without_labels_are_not_dropped_in_silence():
    with pytest.raises(ValueError, match="sample_weight was given without y"):
        make_model().fit(IMAGES, sample_weight=np.ones(len(IMAGES)), verbose=0)
