"""The network for points: its inputs and its output, what it learns, its config and its errors."""

import json

import keras
import numpy as np
import pytest
from tools import compiled, random_weights

from keras_ddpm import MLP, DiffusionModel, GaussianDiffusion

X = np.random.default_rng(0).standard_normal((3, 2)).astype("float32")
T, LABEL = np.full(3, 5, "int32"), np.int32([0, 1, 0])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_fresh_network_predicts_zero_and_then_depends_on_each_input_of_its_own_row(policy):
    network = MLP(2, width=8, depth=2, num_classes=2, dtype=policy)
    call = compiled(network)
    output = call([X, T, LABEL])
    assert output.shape == (3, 2) and output.dtype == np.float32
    np.testing.assert_array_equal(output, 0)
    random_weights(network)
    before, second = call([X, T, LABEL]), np.int32([0, 1, 0])
    for inputs in (
        [X + np.float32(second[:, None]), T, LABEL],
        [X, T + second, LABEL],
        [X, T, LABEL - second],
    ):
        moved = np.abs(call(inputs) - before)
        assert moved[1].max() > 1e-3 and moved[[0, 2]].max() < 1e-5


@pytest.mark.once
def test_labels_choose_where_samples_lie():
    """Two narrow Gaussians, each drawn by its label after 300 short steps of training."""
    rng, centres = np.random.default_rng(0), np.float32([[1, 1], [-1, -1]])
    labels = rng.integers(0, 2, 2000)
    points = centres[labels] + rng.normal(0, 0.1, (2000, 2)).astype("float32")
    diffusion = GaussianDiffusion(50, beta_start=0.002, beta_end=0.4, prediction="velocity")
    model = DiffusionModel(MLP(width=32, depth=1, num_classes=2), diffusion, 0.98, seed=0)
    model.compile(optimizer=keras.optimizers.Adam(5e-3))
    model.fit(points, labels, batch_size=200, epochs=30, verbose=0)
    wanted = np.arange(200) % 2
    samples = model.generate(labels=wanted, steps=25, seed=0, batch_size=200)
    assert np.abs(samples - centres[wanted]).mean() < 0.2


@pytest.mark.once
def test_the_config_holds_the_arguments_and_gives_the_same_network():
    options = {"features": 3, "width": 6, "num_classes": 2, "dtype": "mixed_bfloat16"}
    network = MLP(**options)
    assert options.items() <= network.get_config().items()
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    again = keras.saving.deserialize_keras_object(described)
    assert type(again) is MLP and again.get_config() == network.get_config()
    weights = [[(w.path, w.shape) for w in one.weights] for one in (network, again)]
    assert weights[0] == weights[1]
