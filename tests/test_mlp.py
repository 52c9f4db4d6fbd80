"""The network for points: shapes, a start at zero, errors, and a model of it on disk."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import compiled, random_weights

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.data.points import draw_mixture, mixture_means
from keras_ddpm.mlp import build_mlp


def inputs(network, batch=3, t=5):
    x = np.random.default_rng(0).standard_normal((batch, network.inputs[0].shape[1]))
    label = [np.arange(batch, dtype="int32") % 2] if len(network.inputs) == 3 else []
    return [x.astype("float32"), np.full(batch, t, "int32"), *label]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_fresh_network_says_zero_in_float32(dtype_policy, policy):
    dtype_policy(policy)
    network = build_mlp(3, width=8, depth=1, num_classes=2)
    output = compiled(network)(inputs(network))
    assert output.shape == (3, 3) and output.dtype == np.float32
    np.testing.assert_array_equal(output, 0)


def test_the_output_depends_on_each_input_of_its_own_row_alone():
    network = random_weights(build_mlp(2, width=8, depth=2, num_classes=2))
    call = compiled(network)
    x, t, label = inputs(network)
    before = call([x, t, label])
    one = np.int32([0, 1, 0])
    for changed in (
        [x + np.float32(one[:, None]), t, label],
        [x, t + one, label],
        [x, t, label - one],
    ):
        moved = np.abs(call(changed) - before)
        assert moved[1].max() > 1e-3 and moved[[0, 2]].max() < 1e-5


def test_labels_choose_where_samples_lie():
    """Two Gaussians, each asked for by its label: 300 short steps are enough to tell them apart."""
    points, labels = draw_mixture(2000, modes=2, std=0.1)
    diffusion = GaussianDiffusion(50, beta_start=0.002, beta_end=0.4, prediction="velocity")
    model = DiffusionModel(build_mlp(width=32, depth=1, num_classes=2), diffusion, 0.98, seed=0)
    model.compile(optimizer=keras.optimizers.Adam(5e-3))
    model.fit(points, labels, batch_size=200, epochs=30, verbose=0)
    wanted = np.arange(200) % 2
    samples = model.generate(labels=wanted, steps=25, seed=0, batch_size=200)
    assert np.abs(samples - mixture_means(2)[wanted]).mean() < 0.2


def test_a_model_loads_in_another_process(tmp_path):
    model = DiffusionModel(random_weights(build_mlp(2, 8, 1, num_classes=2)), seed=0)
    path = tmp_path / "model.keras"
    model.save(path)
    kwargs = {"labels": [0, 1], "steps": 3, "seed": 0}
    code = (
        "import sys, keras, keras_ddpm, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        f"np.save(sys.argv[2], model.generate(**{kwargs}))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "found.npy"],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        check=True,
        timeout=300,
    )
    expected = model.generate(**kwargs)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"features": 0}, ValueError, "features must be at least 1, got 0"),
        ({"width": 7}, ValueError, "width=7 must be even"),
        ({"width": 2}, ValueError, "width must be at least 4, got 2"),
        ({"depth": 1.5}, TypeError, "depth must be an int, got 1.5"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_sizes(kwargs, error, message):
    with pytest.raises(error, match=message):
        build_mlp(**kwargs)
