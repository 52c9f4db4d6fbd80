"""What the numerics tests share: seeds, tiny networks, and weights that hide no mistake."""

import os
from importlib.util import find_spec

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Processes that test side by side share the cores: threads that wait for each other slow down.
os.environ.update(
    dict.fromkeys(
        ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
        str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))),
    )
)

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_ddpm.backend import compile_function
from keras_ddpm.layers import TimeEmbedding


def pytest_collection_modifyitems(items):
    if keras.backend.backend() != "tensorflow":
        for item in items:
            if item.get_closest_marker("once"):
                item.add_marker(pytest.mark.skip(reason="runs once, with TensorFlow"))
    for item in items:
        packages = {name for marker in item.iter_markers("needs") for name in marker.args}
        if missing := sorted(name for name in packages if find_spec(name) is None):
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(missing)}"))


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def dtype_policy():
    """A function that sets the global dtype policy until the test ends, as examples also do."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def random_weights(model, seed=0, scale=1.0):
    """Replaces every weight: layers that start at zero would hide what they are fed."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 10
        return rng.normal(0, scale / np.sqrt(fan_in), shape).astype("float32")

    model.set_weights([draw(weight.shape) for weight in model.weights])
    return model


def tiny_network(size=8, channels=1, num_classes=None, dropout=0.0, width=8, seed=0):
    """Two convolutions that know t and label: compiles in a moment, and learns a little."""
    x_t = keras.Input((size, size, channels), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs = [x_t, t]
    code = layers.Dense(width)(TimeEmbedding(8)(t))
    if num_classes is not None:
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        embedding = layers.Embedding(num_classes + 1, width, name="label_embedding")
        code = layers.Add()([code, embedding(label)])
    x = layers.Conv2D(width, 3, padding="same")(x_t)
    x = layers.Add()([x, layers.Reshape((1, 1, width))(code)])
    x = layers.Dropout(dropout, seed=1)(keras.activations.swish(x))
    x = layers.Conv2D(channels, 3, padding="same", dtype="float32")(x)
    return random_weights(keras.Model(inputs, x), seed)


def to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def compiled(network):
    """The network as a function of NumPy inputs: eager JAX compiles each operation alone."""
    program = compile_function(lambda *inputs: network(list(inputs)), network.variables, False)
    return lambda inputs: to_numpy(program(*map(ops.convert_to_tensor, inputs)))


def states(model):
    """Every number that training changes, by name: weights, averages, optimiser, seeds."""
    variables = {
        "network": model.network.weights,
        "ema": model.ema_network.weights,
        "optimizer": model.optimizer.variables,
        "seeds": model._seed_states(),
    }
    return {
        f"{group}_{i}": to_numpy(v) for group, vs in variables.items() for i, v in enumerate(vs)
    }


def assert_same_states(a, b, groups=("network", "ema", "optimizer", "seeds")):
    assert a.keys() == b.keys()
    for name in a:
        if name.startswith(groups):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
