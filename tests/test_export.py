"""Exports, run by runtimes that know neither Keras nor the package, say what the model says."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import compiled, random_weights, tiny_network
from keras import layers

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp, build_unet, export
from keras_ddpm.layers import GroupNormalization, SelfAttention
from keras_ddpm.samplers.seeds import step_seeds

BACKEND = keras.backend.backend()
needs_onnx = pytest.mark.needs(
    "onnx", "onnxruntime", *(["tf2onnx"] if BACKEND == "tensorflow" else [])
)

saved_model_only = pytest.mark.skipif(BACKEND == "torch", reason="Keras writes none with PyTorch")
not_with_jax = pytest.mark.skipif(BACKEND == "jax", reason="not written with JAX")
with_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="written with TensorFlow only")


def make_model(network, **kwargs):
    """A model whose averaged weights are not those it trains."""
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, seed=0, **kwargs)
    random_weights(model.ema_network, seed=1)
    return model


def run_saved_model(path, *batches):
    import tensorflow as tf

    artifact = tf.saved_model.load(path)
    return [artifact.serve(inputs).numpy() for inputs in batches]


def run_onnx(path, *batches):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = {i.name for i in session.get_inputs()}
    assert all(inputs.keys() == names for inputs in batches)
    return [session.run(None, inputs)[0] for inputs in batches]


def cut(inputs):
    """The second of a batch alone: a batch of another size."""
    return {name: value[1:2] for name, value in inputs.items()}


def small_network():
    """The layers that are made of more than one operation, and that a batch of any size tries."""
    tiny = tiny_network(num_classes=3)
    x = GroupNormalization(groups=4)(layers.Conv2D(8, 1)(tiny.output))
    return keras.Model(tiny.inputs, layers.Conv2D(1, 1, dtype="float32")(SelfAttention()(x)))


def unet():
    """All the kinds of layers that `build_unet` has."""
    widths, has_attention = (4, 4), (False, False)
    return build_unet(8, 1, widths, has_attention, 1, norm_groups=2, num_classes=3)


def network_inputs():
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((3, 8, 8, 1), dtype="float32")
    return {"x_t": x_t, "t": np.int32([0, 9, 19]), "label": np.int32([3, 1, 0])}


@saved_model_only
@pytest.mark.parametrize("policy, atol", [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_network_as_saved_model(tmp_path, policy, atol):
    keras.config.set_dtype_policy(policy)
    model, inputs = make_model(small_network()), network_inputs()
    model.export(tmp_path / "network")
    batches = [list(batch.values()) for batch in (inputs, cut(inputs))]
    found, one = run_saved_model(tmp_path / "network", *batches)
    expected = compiled(model.ema_network)(batches[0])
    assert found.dtype == "float32" and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=atol)
    np.testing.assert_allclose(one, expected[1:2], atol=atol)


@needs_onnx
@not_with_jax
def test_network_as_onnx(tmp_path):
    """In ONNX, mixed precision is float32: the same as a network that always was."""
    inputs = network_inputs()
    expected = compiled(make_model(unet()).ema_network)(inputs.values())
    keras.config.set_dtype_policy("mixed_bfloat16")
    make_model(unet()).export(tmp_path / "network.onnx", format="onnx")
    found, one = run_onnx(tmp_path / "network.onnx", inputs, cut(inputs))
    assert found.dtype == "float32" and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(one, expected[1:2], atol=1e-5)


CASES = {
    # Points are not clipped by default, images are.
    "points": ({}, {"sampler": "ddim", "steps": 5, "spacing": "quadratic"}),
    "images": ({}, {"sampler": "dpm_solver++", "steps": 5}),
    "labels": ({"label"}, {"sampler": "heun", "timesteps": [19, 12, 5, 1], "clip_denoised": 0.9}),
    "guided": ({"label", "guidance_scale"}, {"sampler": "dpm_solver++", "clip_denoised": 0.9}),
    "random": ({"label", "seed"}, {"sampler": "ddpm", "steps": 5, "clip_denoised": False}),
}


def prepare(case):
    """A model, the inputs of its exported sampler, its options, and what `generate` says."""
    names, options = CASES[case]
    network = (
        build_mlp(2, width=8, depth=2)
        if case == "points"
        else tiny_network(num_classes=3 if names else None)
    )
    model, steps = make_model(network), options.get("steps", 4)
    options = options if "timesteps" in options else {**options, "steps": steps}
    noise = np.random.default_rng(7).standard_normal((3, *model.sample_shape), dtype="float32")
    inputs = {
        "noise": noise,
        "label": np.int32([0, 2, 1]),
        "guidance_scale": np.float32([0.5, 1.0, 3.0]),
        "seed": step_seeds(5, 3, steps),
    }
    inputs = {name: value for name, value in inputs.items() if name in {"noise", *names}}
    asked = {"label": "labels", "guidance_scale": "guidance_scale"}
    asked = {asked[name]: inputs[name] for name in asked if name in names}
    expected = model.generate(noise=noise, seed=5, **asked, **options)
    assert np.abs(expected).max() > 0.5
    options = {**options, "guided": "guidance_scale" in names}
    return model, inputs, options, expected


@saved_model_only
@pytest.mark.parametrize("case", CASES)
def test_sampler_as_saved_model(tmp_path, case):
    model, inputs, options, expected = prepare(case)
    model.export_sampler(tmp_path / "sampler", **options)
    found, one = run_saved_model(tmp_path / "sampler", inputs, cut(inputs))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(one, expected[1:2], atol=1e-5)


@needs_onnx
@with_tensorflow
@pytest.mark.parametrize("case", ["points", "guided"])
def test_sampler_as_onnx(tmp_path, case):
    expected = prepare(case)[-1]
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, inputs, options, rough = prepare(case)
    assert np.abs(rough - expected).max() > 1e-4  # that of the network in bfloat16
    model.export_sampler(tmp_path / "sampler.onnx", format="onnx", **options)
    found, one = run_onnx(tmp_path / "sampler.onnx", inputs, cut(inputs))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(one, expected[1:2], atol=1e-5)


@saved_model_only
def test_a_process_without_keras(tmp_path):
    """Nor JAX, nor this package; through the signature that a server uses."""
    model, inputs, options, expected = prepare("guided")
    model.export_sampler(tmp_path / "sampler", **options)
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = """
import sys
sys.modules |= dict.fromkeys(("keras", "keras_ddpm", "jax"))  # as if they were not installed
import numpy as np, tensorflow as tf
artifact = tf.saved_model.load("sampler")
inputs = {name: tf.constant(value) for name, value in np.load("inputs.npz").items()}
(samples,) = artifact.signatures["serving_default"](**inputs).values()
np.save("samples.npy", samples)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(np.load(tmp_path / "samples.npy"), expected, atol=1e-5)


def test_what_a_backend_cannot_write_is_refused_at_once(tmp_path):
    model = make_model(tiny_network())
    refused = {
        "tensorflow": [],
        "jax": [(model.export, "onnx"), (model.export_sampler, "onnx")],
        "torch": [
            (model.export, "tf_saved_model"),
            (model.export_sampler, "tf_saved_model"),
            (model.export_sampler, "onnx"),
        ],
    }
    for function, format in refused[BACKEND]:
        with pytest.raises(ValueError, match="load and export it with KERAS_BACKEND=tensorflow"):
            function(tmp_path / "a", format=format)
    with pytest.raises(ValueError, match="did you mean 'onnx'"):
        model.export(tmp_path / "a", format="onx")
    with pytest.raises(ValueError, match="did you mean 'tf_saved_model'"):
        model.export_sampler(tmp_path / "a", format="saved_model")
    assert not any(tmp_path.iterdir())


@pytest.mark.once
def test_wrong_arguments_are_refused_at_once(tmp_path, monkeypatch):
    plain, conditional = (make_model(tiny_network(num_classes=n)) for n in (None, 3))
    never_dropped = make_model(tiny_network(num_classes=3), label_dropout=0.0)
    for model, options, expected in (
        (plain, {"sampler": "dimm"}, "did you mean 'ddim'"),
        (plain, {"steps": 21}, "steps=21"),
        (plain, {"clip_denoised": 2}, "clip_denoised=2"),
        (plain, {"guided": True}, "needs a network with classes"),
        (never_dropped, {"guided": True}, "label_dropout=0"),
        (conditional, {"format": "onnx", "sampler": "ddpm"}, "sampler='dpm_solver\\+\\+' with"),
        (conditional, {"format": "onnx", "sampler": "ddim", "eta": 1.0}, "with eta=0"),
        (conditional, {"format": "onnx", "sampler": "heun"}, "look twice"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(export.importlib.util, "find_spec", lambda name: name)  # all installed
            with pytest.raises(ValueError, match=expected):
                model.export_sampler(tmp_path / "a", **options)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'the package tf2onnx: pip install -e ".\[export\]"'):
        plain.export(tmp_path / "a", format="onnx")
    assert not any(tmp_path.iterdir())


@needs_onnx
@with_tensorflow
def test_an_onnx_file_that_would_not_run_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "check_onnx_sampler", lambda sampler: None)
    model, _, options, _ = prepare("random")
    with pytest.raises(Exception, match="StatelessRandom"):
        model.export_sampler(tmp_path / "a.onnx", format="onnx", **options)
    assert not any(tmp_path.iterdir())
