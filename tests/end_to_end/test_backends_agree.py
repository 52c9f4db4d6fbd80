"""One network and one batch on three backends: the same losses, gradients, averages and images.

As a script this file is what a process with one backend does.
"""

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import keras
import numpy as np
import pytest
from keras import ops
from tools import BACKEND, ROOT, random_weights, to_numpy

from keras_ddpm import DiffusionModel, FusedAdam, GaussianDiffusion, UNet, load_diffusion_model

pytestmark = [pytest.mark.once, pytest.mark.needs("jax", "torch")]

BACKENDS = ("tensorflow", "jax", "torch")
LABELS = np.int32([0, 1, 2, 1])
NOISE = np.random.default_rng(1).standard_normal((4, 8, 8, 2)).astype("float32")
X = np.random.default_rng(2).uniform(-1, 1, (4, 8, 8, 2)).astype("float32")
SHAPE = {"widths": (4, 8), "has_attention": (False, False), "num_res_blocks": 1, "norm_groups": 2}


def prepared(model):
    arrays = np.int32([0, 7, 31, 49]), NOISE, np.array([False, False, False, True])
    model.draw = lambda *_: tuple(map(ops.convert_to_tensor, arrays))
    model.jit_compile = BACKEND == "jax"  # TensorFlow and PyTorch would compile for long
    return model


def step(model):
    return model.fit(X, LABELS, batch_size=4, verbose=0, shuffle=False).history["loss"][0]


def images(model, sampler="ddim", **options):
    return model.generate(noise=NOISE, labels=LABELS, sampler=sampler, steps=3, **options)


def train(folder):
    """One step of SGD with rate 1, which moves the weights by the gradient, and two of Adam."""
    keras.utils.set_random_seed(3)
    arrays = {"fresh": UNet(8, 2, **SHAPE).get_weights(), "loss": []}
    # A large epsilon, because the sign of a gradient that is only rounding is arbitrary.
    for optimizer in (keras.optimizers.SGD(1.0), FusedAdam(1e-2, epsilon=1e-2)):
        network = random_weights(UNet(8, 2, num_heads=2, num_classes=3, **SHAPE))
        diffusion = GaussianDiffusion(50, "cosine", prediction="velocity")
        model = DiffusionModel(network, diffusion, ema_decay=0.5, seed=0)
        model.compile(optimizer)
        before = network.get_weights()
        arrays["loss"].append(step(prepared(model)))
        pairs = zip(before, network.get_weights())
        arrays.setdefault("gradient", [old - new for old, new in pairs])
    arrays["loss"].append(step(model))
    arrays |= {"weight": network.get_weights(), "average": model.ema_network.get_weights()}
    options = {"guidance_scale": 1.5, "clip_denoised": 0.9}
    arrays["images"] = [images(model), images(model, "dpm_solver++", **options)]
    model.save(folder / f"{BACKEND}.keras")
    model.save_to_preset(folder / BACKEND, dtype="float32")
    arrays = {f"{name}_{i}": a for name, group in arrays.items() for i, a in enumerate(group)}
    np.savez(folder / f"{BACKEND}.npz", **arrays)


def load(folder):
    """Samples from the files of the other backends, and trains on."""
    results = {}
    for other in set(BACKENDS) - {BACKEND}:
        model = prepared(load_diffusion_model(folder / f"{other}.keras"))
        preset = load_diffusion_model(folder / other)
        for found, expected in zip(preset.network.get_weights(), model.ema_network.get_weights()):
            np.testing.assert_array_equal(found, expected)
        results |= {f"images_{other}": images(model), f"loss_{other}": step(model)}
        assert to_numpy(model.optimizer.iterations) == 3
    np.savez(folder / f"{BACKEND}_loaded.npz", **results)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What this process and one for each other backend wrote."""
    folder = tmp_path_factory.mktemp("backends")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
        "OMP_NUM_THREADS": "1",  # thread pools on few cores would wait for each other
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # or it would compile for long
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    processes = []
    for backend in ("jax", "torch"):
        environment["KERAS_BACKEND"], command = backend, [sys.executable, __file__, folder]
        options = {"env": environment, "stdin": PIPE, "stdout": PIPE, "text": True}
        processes.append(Popen(command, **options))
    train(folder)
    assert [process.stdout.readline() for process in processes] == ["trained\n"] * 2
    for process in processes:
        print("go on", file=process.stdin, flush=True)
    load(folder)
    assert [process.wait() for process in processes] == [0, 0]
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize("group", ["fresh", "loss", "gradient", "weight", "average", "images"])
def test_backends_agree(results, group):
    """Relative to the largest entry of each array."""
    tolerance = {"fresh": 0, "images": 1e-3}.get(group, 1e-4)
    names = [name for name in results["tensorflow"] if name.startswith(group)]
    sizes = {name: np.abs(results["tensorflow"][name]).max() for name in names}
    assert group == "fresh" or np.mean([size > 1e-5 for size in sizes.values()]) > 0.95
    for backend in ("jax", "torch"):
        for name, size in sizes.items():
            error = np.abs(results[backend][name] - results["tensorflow"][name]).max()
            assert error <= tolerance * max(size, 1e-3), (backend, name, error, size)


def test_a_file_of_each_backend_samples_and_trains_on_the_others(results):
    losses = []
    for backend in BACKENDS:
        loaded = results[f"{backend}_loaded"]
        for other in set(BACKENDS) - {backend}:
            found, expected = loaded[f"images_{other}"], results[other]["images_0"]
            np.testing.assert_allclose(found, expected, atol=1e-3)
            losses.append(loaded[f"loss_{other}"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
    print("trained", flush=True)
    sys.stdin.readline()
    load(Path(sys.argv[1]))
