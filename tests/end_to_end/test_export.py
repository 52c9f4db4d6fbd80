"""Exports, run by runtimes that know neither Keras nor the package, say what the model says."""

import numpy as np
import pytest
from tools import BACKEND, compiled, random_weights, run_python, tiny_network

from keras_ddpm import MLP, DiffusionModel, GaussianDiffusion, Heun, UNet
from keras_ddpm.model import export
from keras_ddpm.samplers.noise import step_seeds

needs_onnx = pytest.mark.needs(
    "onnx", "onnxruntime", *(["tf2onnx"] if BACKEND == "tensorflow" else [])
)
needs_litert = pytest.mark.needs("ai_edge_litert")
saved_model = pytest.mark.skipif(BACKEND == "torch", reason="Keras writes none with PyTorch")
not_with_jax = pytest.mark.skipif(BACKEND == "jax", reason="not written with JAX")
with_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="written with TensorFlow only")

# Options of `export_sampler` and of `generate`, and what a user of the file gives besides noise.
SAMPLERS = {
    "points": ({"sampler": "ddim", "steps": 5, "spacing": "quadratic"}, ()),
    "labels": ({"sampler": Heun(timesteps=[19, 12, 5, 1]), "clip_denoised": 0.9}, ("label",)),
    "guided": ({"sampler": "dpm_solver++", "steps": 4}, ("label", "guidance_scale")),
    "random": ({"sampler": "ddpm", "steps": 5, "clip_denoised": False}, ("label", "seed")),
}


def make_model(network, **kwargs):
    """A model whose averaged weights are not those it trains."""
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, seed=0, **kwargs)
    random_weights(model.ema_network, seed=1)
    return model


def unet(policy="float32"):
    options = {"norm_groups": 4, "num_classes": 3, "dtype": policy}
    return make_model(UNet(8, 1, (4, 8), (False, False), 1, **options))


def network_inputs(model):
    x_t = np.random.default_rng(0).standard_normal((3, *model.sample_shape), dtype="float32")
    return {"x_t": x_t, "t": np.int32([0, 9, 19]), "label": np.int32([3, 1, 0])}


def prepare(case):
    """A model, the inputs of its exported sampler, and what `generate` says."""
    options, names = SAMPLERS[case]
    model = make_model(MLP(2, 8, depth=2) if case == "points" else tiny_network(num_classes=3))
    noise = np.random.default_rng(7).standard_normal((3, *model.sample_shape), dtype="float32")
    inputs = {
        "noise": noise,
        "label": np.int32([0, 2, 1]),
        "guidance_scale": np.float32([0.5, 1.0, 3.0]),
        "seed": step_seeds(5, 3, steps=5),
    }
    inputs = {name: value for name, value in inputs.items() if name in ("noise", *names)}
    asked = {"labels": inputs.get("label")}
    if "guidance_scale" in names:
        asked["guidance_scale"] = inputs["guidance_scale"]
    return model, inputs, model.generate(noise=noise, seed=5, **asked, **options)


def export_sampler(model, case, path, **kwargs):
    options, names = SAMPLERS[case]
    model.export_sampler(path, guided="guidance_scale" in names, **options, **kwargs)


def assert_as_expected(batch, one, expected, atol=1e-5):
    assert batch.dtype == "float32" and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(batch, expected, atol=atol)
    np.testing.assert_allclose(one, expected[1:2], atol=atol)


LOAD = """
import sys
sys.modules |= dict.fromkeys(("keras", "keras_ddpm", "jax"))  # as if they were not installed
from pathlib import Path
import numpy as np, tensorflow as tf

for path in Path(".").glob("*/saved_model.pb"):
    artifact, name = tf.saved_model.load(path.parent), path.parent.name
    inputs = {key: tf.constant(value) for key, value in np.load(f"{name}.npz").items()}
    one = {key: value[1:2] for key, value in inputs.items()}  # a batch of another size
    if "noise" in inputs:
        found = artifact.serve(inputs), artifact.serve(one)
        (signature,) = artifact.signatures["serving_default"](**inputs).values()  # for servers
        np.testing.assert_array_equal(signature, found[0])
    else:
        found = [artifact.serve(list(batch.values())) for batch in (inputs, one)]
    np.savez(f"{name}_found.npz", *found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By name what a process without Keras found for a batch and for a part of it, and what was
    expected."""
    folder, model = tmp_path_factory.mktemp("exports"), unet("mixed_bfloat16")
    inputs = network_inputs(model)
    np.savez(folder / "unet.npz", **inputs)
    model.export(folder / "unet")
    expected = {"unet": compiled(model.ema_network)(inputs.values())}
    for case in SAMPLERS:
        model, inputs, expected[case] = prepare(case)
        np.savez(folder / f"{case}.npz", **inputs)
        export_sampler(model, case, folder / case)
    run_python("-c", LOAD, cwd=folder, PYTHONPATH="")
    return {
        name: (*np.load(folder / f"{name}_found.npz").values(), values)
        for name, values in expected.items()
    }


@saved_model
@pytest.mark.parametrize("name", ["unet", *SAMPLERS])
def test_saved_models_run_without_keras(found, name):
    assert_as_expected(*found[name], atol=0.05 if name == "unet" else 1e-5)  # in bfloat16


def run_onnx(path, inputs):
    """The outputs for a batch, and for the second of it alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert {i.name for i in session.get_inputs()} == inputs.keys()
    one = {name: value[1:2] for name, value in inputs.items()}
    return [session.run(None, batch)[0] for batch in (inputs, one)]


@needs_onnx
@not_with_jax
def test_a_network_in_onnx_computes_in_float32(tmp_path):
    """Also one of mixed precision: the same as a network that always was."""
    inputs = network_inputs(unet())
    expected = compiled(unet().ema_network)(inputs.values())
    unet("mixed_bfloat16").export(tmp_path / "network.onnx", format="onnx")
    assert_as_expected(*run_onnx(tmp_path / "network.onnx", inputs), expected)


@needs_onnx
@with_tensorflow
@pytest.mark.parametrize("case", ["points", "guided"])
def test_samplers_run_in_onnx(tmp_path, case):
    model, inputs, expected = prepare(case)
    if case == "points":  # here too, ONNX computes in float32
        model = make_model(MLP(2, 8, depth=2, dtype="mixed_bfloat16"))
    export_sampler(model, case, tmp_path / "sampler.onnx", format="onnx")
    assert_as_expected(*run_onnx(tmp_path / "sampler.onnx", inputs), expected)


def run_litert(path, inputs):
    """As `run_onnx`."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    assert run.get_input_details().keys() == inputs.keys()
    one = {name: value[1:2] for name, value in inputs.items()}
    return [run(**batch)["output_0"] for batch in (inputs, one)]


@needs_litert
@with_tensorflow
@pytest.mark.parametrize("case", ["points", "labels", "guided"])
def test_samplers_run_in_litert(tmp_path, monkeypatch, case):
    options, names = SAMPLERS[case]
    monkeypatch.setitem(SAMPLERS, case, ({**options, "clip_denoised": True}, names))
    model, inputs, expected = prepare(case)
    export_sampler(model, case, tmp_path / "sampler.tflite", format="litert")
    assert_as_expected(*run_litert(tmp_path / "sampler.tflite", inputs), expected)


@needs_litert
@with_tensorflow
@pytest.mark.needs("ai_edge_quantizer")
def test_weights_of_fewer_bits_in_litert(tmp_path):
    """A file is as small as they are, and the error as large. All else is float32."""

    def make(policy):
        return make_model(UNet(8, 1, (48,), (False,), 1, num_classes=3, dtype=policy))

    model, mixed = make("float32"), make("mixed_bfloat16")
    inputs = network_inputs(model)
    expected = compiled(model.ema_network)(inputs.values())
    sizes, allowed = {"float32": 4, "float16": 2, "int8": 1}, (1e-5, 1e-3, 2e-2)
    for (dtype, num_bytes), error in zip(sizes.items(), allowed):
        path = tmp_path / f"{dtype}.tflite"
        mixed.export(path, format="litert", dtype=dtype)
        assert np.abs(run_litert(path, inputs)[0] - expected).max() < error * expected.max()
        assert path.stat().st_size < 1.35 * num_bytes * model.ema_network.count_params()


@needs_onnx
@not_with_jax
def test_an_onnx_file_that_would_not_run_is_not_there(tmp_path, monkeypatch):
    import onnx

    def refuse(path):
        assert path.is_file()
        raise onnx.checker.ValidationError("an operation is unknown")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        make_model(MLP(2, width=8, depth=1)).export(tmp_path / "a.onnx", format="onnx")
    assert not any(tmp_path.iterdir())


def test_what_a_backend_cannot_write_is_refused_at_once(tmp_path):
    model = make_model(tiny_network())
    refused = {
        "tensorflow": [],
        "jax": [
            (model.export, "onnx"),
            (model.export, "litert"),
            (model.export_sampler, "onnx"),
            (model.export_sampler, "litert"),
        ],
        "torch": [
            (model.export, "tf_saved_model"),
            (model.export, "litert"),
            (model.export_sampler, "tf_saved_model"),
            (model.export_sampler, "onnx"),
            (model.export_sampler, "litert"),
        ],
    }
    for function, format in refused[BACKEND]:
        with pytest.raises(ValueError, match="load and export it with KERAS_BACKEND=tensorflow"):
            function(tmp_path / "a", format=format)
    with pytest.raises(ValueError, match="format='onx' is unknown.* did you mean 'onnx'"):
        model.export(tmp_path / "a", format="onx")
    with pytest.raises(ValueError, match="did you mean 'tf_saved_model'"):
        model.export_sampler(tmp_path / "a", format="saved_model")
    assert not any(tmp_path.iterdir())


@pytest.mark.once
def test_wrong_arguments_are_refused_at_once(tmp_path, monkeypatch):
    plain, conditional = (make_model(tiny_network(num_classes=n)) for n in (None, 3))
    never_dropped = make_model(tiny_network(num_classes=3), label_dropout=0.0)
    litert = {"filepath": tmp_path / "a.tflite", "format": "litert"}
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: name)  # all installed
    for model, options, expected in (
        (plain, {"steps": 21}, "steps=21 is more than"),
        (plain, {"clip_denoised": 2}, "clip_denoised=2"),
        (plain, {"guided": True}, "guided=True needs labels to guide towards"),
        (never_dropped, {"guided": True}, "label_dropout=0"),
        (conditional, {"format": "onnx", "sampler": "ddpm"}, "sampler=DDPM"),
        (conditional, {"format": "onnx", "sampler": "ddim", "eta": 1.0}, "with eta=0"),
        (conditional, {"format": "onnx", "sampler": "heun"}, "sampler=Heun"),
        (conditional, {**litert, "sampler": "ddpm"}, "sampler=DDPM.* format='litert'"),
        (conditional, {**litert, "clip_denoised": 0.9}, "clip_denoised=0.9 cannot be written"),
        (conditional, {**litert, "dtype": "int4"}, "dtype='int4' is unknown"),
        (conditional, {"format": "litert"}, "filepath='.*a' must end with .tflite"),
        (conditional, {"dtype": "int8"}, "dtype='int8' needs format='litert'"),
    ):
        with pytest.raises(ValueError, match=expected):
            model.export_sampler(**{"filepath": tmp_path / "a", **options})
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs tf2onnx: pip install "keras-ddpm\[export\]"'):
        plain.export(tmp_path / "a", format="onnx")
    with pytest.raises(ImportError, match="dtype='int8' needs ai_edge_quantizer: pip install"):
        plain.export(**litert, dtype="int8")
    assert not any(tmp_path.iterdir())
