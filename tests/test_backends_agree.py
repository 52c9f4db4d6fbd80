"""One network, one batch, three backends: the same loss, gradients, average and images.

Run as a script, this file is what each backend does in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import random_weights, to_numpy
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet

BACKENDS = ("tensorflow", "jax", "torch")
LABELS = np.int32([0, 1, 2, 1])
NOISE = np.random.default_rng(1).standard_normal((4, 8, 8, 2)).astype("float32")
X = np.random.default_rng(2).uniform(-1, 1, (4, 8, 8, 2)).astype("float32")

pytestmark = [pytest.mark.once, pytest.mark.needs("jax", "torch")]  # it starts them itself


def fixed_draw(shape, validation=False):
    return (
        ops.convert_to_tensor(np.int32([0, 7, 31, 49])),
        ops.convert_to_tensor(NOISE),
        ops.convert_to_tensor(np.array([False, False, False, True])),
    )


def make_model(optimizer):
    network = build_unet(8, 2, (8, 8), (False, False), 1, 4, num_heads=2, num_classes=3)
    diffusion = GaussianDiffusion(50, "cosine", prediction="velocity")
    model = DiffusionModel(random_weights(network), diffusion, ema_decay=0.5, seed=0)
    model.compile(optimizer)
    model.draw = fixed_draw
    return model


def step(model):
    return model.fit(X, LABELS, batch_size=4, verbose=0, shuffle=False).history["loss"][0]


def images(model):
    return model.generate(noise=NOISE, labels=LABELS[:2].repeat(2), steps=5)


def train(folder):
    """One step of SGD with rate 1, which moves the weights by the gradient; two of Adam."""
    results = {}
    keras.utils.set_random_seed(3)
    for i, weight in enumerate(build_unet(8, 2, (8,), (True,), 1, 4).get_weights()):
        results[f"fresh_{i}"] = weight
    model = make_model(keras.optimizers.SGD(1.0))
    before = model.network.get_weights()
    results["sgd_loss"] = step(model)
    for i, (old, new) in enumerate(zip(before, model.network.get_weights())):
        results[f"gradient_{i}"] = old - new
    # A large epsilon: the sign of a gradient that is only rounding is nobody's to agree on.
    model = make_model(keras.optimizers.Adam(1e-2, epsilon=1e-2))
    results["adam_losses"] = [step(model), step(model)]
    for i, weight in enumerate(model.network.get_weights()):
        results[f"weight_{i}"] = weight
    for i, average in enumerate(model.ema_network.get_weights()):
        results[f"ema_{i}"] = average
    results["images"] = images(model)
    for sampler in ("dpm_solver++", "heun"):
        options = {"labels": LABELS, "guidance_scale": 1.5, "clip_denoised": 0.9}
        results[f"images_{sampler}"] = model.generate(
            noise=NOISE, sampler=sampler, steps=5, **options
        )
    backend = keras.backend.backend()
    model.save(folder / f"{backend}.keras")
    np.savez(folder / f"{backend}.npz", **results)


def load(folder):
    """Samples from the other backends' files, and trains them on."""
    backend = keras.backend.backend()
    results = {}
    for origin in BACKENDS:
        if origin != backend:
            model = keras.saving.load_model(folder / f"{origin}.keras")
            results[f"images_{origin}"] = images(model)
            model.draw = fixed_draw
            iterations = int(to_numpy(model.optimizer.iterations))
            results[f"loss_{origin}"] = step(model)
            assert int(to_numpy(model.optimizer.iterations)) == iterations + 1 == 3
    np.savez(folder / f"{backend}_loaded.npz", **results)


def run_everywhere(task, folder):
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    # One thread each: three thread pools on few cores would wait for one another.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    # What JAX compiled for one task, it finds for the other.
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, task, str(folder)],
            env={**environment, "KERAS_BACKEND": backend},
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in BACKENDS
    ]
    for backend, process in zip(BACKENDS, processes):
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, f"{task} on {backend}:\n{errors[-3000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends")
    run_everywhere("train", folder)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return {backend: dict(np.load(folder / f"{backend}.npz")) for backend in BACKENDS}


def assert_agree(results, group, rtol):
    """Relative to the largest entry of each array."""
    reference = results["tensorflow"]
    names = [name for name in reference if name.startswith(group)]
    assert names
    for backend in ("jax", "torch"):
        for name in names:
            scale = max(np.abs(reference[name]).max(), 1e-3)
            error = np.abs(results[backend][name] - reference[name]).max()
            assert error <= rtol * scale, (backend, name, error, scale)


def test_a_seed_gives_the_same_fresh_weights_on_every_backend(results):
    assert_agree(results, "fresh", 0)


@pytest.mark.parametrize("group", ["sgd_loss", "gradient", "adam_losses", "weight", "ema"])
def test_a_training_step_is_the_same_on_every_backend(results, group):
    assert_agree(results, group, 1e-4)


def test_no_gradient_of_the_comparison_is_trivial(results):
    largest = [np.abs(v).max() for k, v in results["jax"].items() if k.startswith("gradient")]
    assert np.mean(np.array(largest) > 1e-5) > 0.95  # a key's bias, for one, has none


def test_images_are_the_same_on_every_backend(results):
    assert_agree(results, "images", 1e-3)


def test_a_file_of_each_backend_samples_and_trains_on_the_others(folder, results):
    run_everywhere("load", folder)
    losses = []
    for backend in BACKENDS:
        loaded = np.load(folder / f"{backend}_loaded.npz")
        for origin in set(BACKENDS) - {backend}:
            expected = results[origin]["images"]
            np.testing.assert_allclose(loaded[f"images_{origin}"], expected, atol=1e-3)
            losses.append(loaded[f"loss_{origin}"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


if __name__ == "__main__":
    {"train": train, "load": load}[sys.argv[1]](Path(sys.argv[2]))
