"""Tiny networks and models, their data, and what tests compare of them."""

import contextlib
import functools
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.backend import compile_function
from keras_ddpm.layers import TimeEmbedding
from keras_ddpm_cli import main

ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")
IMAGES.setflags(write=False)
FLOATS = IMAGES.astype("float32") / 127.5 - 1
LABELS = np.arange(8, dtype="int32") % 3


def to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def random_weights(model, seed=0, scale=1.0):
    """Replaces every weight: layers that start at zero would hide errors in their inputs."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 10
        return rng.normal(0, scale / np.sqrt(fan_in), shape).astype("float32")

    model.set_weights([draw(weight.shape) for weight in model.weights])
    return model


def tiny_network(
    size=8, channels=1, num_classes=None, dropout=0.0, width=8, seed=0, condition_channels=None
):
    """Two convolutions that use t, label and condition. It compiles in a moment, and learns a
    little.
    """
    x_t = keras.Input((size, size, channels), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs = [x_t, t]
    code = layers.Dense(width)(TimeEmbedding(8)(t))
    if num_classes is not None:
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        embedding = layers.Embedding(num_classes + 1, width, name="label_embedding")
        code = layers.Add()([code, embedding(label)])
    seen = x_t
    if condition_channels is not None:
        inputs.append(keras.Input((size, size, condition_channels), name="condition"))
        seen = layers.Concatenate()([x_t, inputs[-1]])
    x = layers.Conv2D(width, 3, padding="same")(seen)
    x = layers.Add()([x, layers.Reshape((1, 1, width))(code)])
    x = layers.Dropout(dropout, seed=1)(keras.activations.swish(x))
    x = layers.Conv2D(channels, 3, padding="same", dtype="float32")(x)
    return random_weights(keras.Model(inputs, x), seed)


def make_model(num_classes=None, optimizer=None, dropout=0.0, network=None, compile=(), **kwargs):
    """A compiled `DiffusionModel` of a tiny network, for `IMAGES` and `LABELS`."""
    keras.utils.set_random_seed(0)
    network = network or tiny_network(num_classes=num_classes, dropout=dropout)
    kwargs = {"diffusion": GaussianDiffusion(50, "cosine"), "seed": 0, **kwargs}
    model = DiffusionModel(network, **kwargs)
    model.compile(optimizer or keras.optimizers.Adam(1e-2), **dict(compile))
    return model


@functools.cache
def shared_model(num_classes=None):
    """One such model for all tests that only sample: its programs are compiled once."""
    return make_model(num_classes)


def fit(model, x=FLOATS, y=None, batch_size=4, **kwargs):
    """The losses of the epochs, in the order of the data."""
    return model.fit(x, y, batch_size, verbose=0, shuffle=False, **kwargs).history["loss"]


def compiled(network):
    """The network as a function of NumPy inputs: eager JAX compiles each operation alone."""
    program = compile_function(lambda *inputs: network(list(inputs)), network.variables, False)
    return lambda inputs: to_numpy(program(*map(ops.convert_to_tensor, inputs)))


def states(model):
    """Every number that training changes, by name: weights, averages, optimizer, seeds."""
    seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    variables = {
        "network": model.network.weights,
        "ema": [*model.ema_network.weights, model.updates, model.data_mean],
        "optimizer": model.optimizer.variables,
        "seeds": seeds,
    }
    return {
        f"{group}_{i}": to_numpy(v) for group, vs in variables.items() for i, v in enumerate(vs)
    }


def assert_same_states(a, b, groups=("network", "ema", "optimizer", "seeds")):
    assert a.keys() == b.keys()
    for name in a:
        if name.startswith(groups):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def run_python(*args, backend=BACKEND, check=True, cwd=None, **environment):
    """A Python process with this backend; its stdout and stderr in one string."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd or ROOT,
        env=environment,
    )
    if check:
        assert done.returncode == 0, done.stdout
    return done if not check else done.stdout


# A training run of seconds: options of `keras-ddpm train`.
TINY_RUN = {
    "data.image_size": 16,
    "data.num_images": 20,
    "diffusion.timesteps": 50,
    "diffusion.schedule": "cosine",
    "network.widths": [8],
    "network.has_attention": [False],
    "network.num_res_blocks": 1,
    "network.patch_size": 1,
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.warmup_steps": 0,
    "training.learning_rate_decay": "constant",
    "sampling.steps": 2,
    "sampling.num_images": 4,
}


def to_options(settings):
    """`{"a.b": [1, True]}` as options of a command line: `["--a.b", "[1, true]"]`."""
    texts = {key: json.dumps(value, default=str).strip('"') for key, value in settings.items()}
    return [text for key, value in texts.items() for text in (f"--{key}", value)]


def run_command(function, *args):
    """Runs a command here: a process would import everything again."""
    with mock.patch.object(sys, "argv", ["command", *map(str, args)]), mock.patch.dict(os.environ):
        function()


def error_of(function, *args):
    """What a command prints to stderr before it exits with code 2."""
    with contextlib.redirect_stderr(io.StringIO()) as printed, pytest.raises(SystemExit) as stop:
        run_command(function, *args)
    assert stop.value.code == 2
    return printed.getvalue()


def error_line_of(function, *args):
    """The same, which must be one line, without "error: "."""
    line = error_of(function, *args)
    assert line.startswith("error: ") and line.count("\n") == 1, line
    return line.removeprefix("error: ")


def command(name, **kwargs):
    """A command of `keras-ddpm` as a function."""
    return lambda: main([name, *sys.argv[1:]], **kwargs)


def example(name):
    """A script of the folder `examples` as a function."""
    return lambda: runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def assert_refused(function, error, **wrong):
    """Each of the wrong values of each argument raises `error`, which names the argument first."""
    for argument, values in wrong.items():
        for value in values:
            try:
                function(**{argument: value})
            except error as caught:
                assert re.match(rf"{argument}\b", str(caught)), f"{argument}={value!r}: {caught}"
            else:
                raise AssertionError(f"{argument}={value!r} was not refused")


def resetting(model):
    """A function that gives all variables their present values again, and returns the model."""
    variables = [*model.variables, *model.optimizer.variables]
    values = [to_numpy(v).copy() for v in variables]

    def reset():
        for variable, value in zip(variables, values):
            variable.assign(value)
        return model

    return reset


class Record(keras.callbacks.Callback):
    """Keeps all states before training and after each batch."""

    def on_train_begin(self, logs=None):
        self.states = [states(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(states(self.model))

    def group(self, name):
        return [[v for k, v in state.items() if k.startswith(name)] for state in self.states]


class Batches(keras.utils.PyDataset):
    """The batches that it is given, in their order."""

    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def distance(a, b):
    """The largest difference between two lists of arrays."""
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


def fixed_draw(shape, validation=False):
    """A replacement of `DiffusionModel.draw`: backends and compilers draw other numbers."""
    t = np.linspace(0, 49, shape[0]).astype("int32")
    noise = np.random.default_rng(7).standard_normal(shape).astype("float32")
    return ops.convert_to_tensor(t), ops.convert_to_tensor(noise), ops.zeros(shape[:1], "bool")
