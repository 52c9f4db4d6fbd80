"""Exports for runtimes without Keras: of the averaged network, or of the whole sampling.

Keras writes the files. A model that was saved on one backend loads on every other, so what one
backend cannot export another can.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any, Literal

import keras

from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.model.saving import copy_network
from keras_ddpm.samplers import Heun, Sampler
from keras_ddpm.samplers.noise import SEED_DTYPE
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_bool, check_choice

# Format -> backend -> the packages that Keras needs.
NETWORK_FORMATS = {
    "tf_saved_model": {"tensorflow": (), "jax": ("tensorflow",)},
    "onnx": {"tensorflow": ("tf2onnx", "onnx"), "torch": ("onnx",)},
    "litert": {"tensorflow": ()},
}
SAMPLER_FORMATS = {**NETWORK_FORMATS, "onnx": {"tensorflow": ("tf2onnx", "onnx")}}
# The dtypes of weights in a LiteRT file, and the packages that write them.
DTYPES = {"float32": (), "float16": (), "int8": ("ai_edge_quantizer",)}


class Export:
    """The part of a `DiffusionModel` that writes files for other runtimes."""

    def export(
        self,
        filepath: PathLike,
        format: Literal["tf_saved_model", "onnx", "litert"] = "tf_saved_model",
        verbose: bool = False,
        dtype: Literal["float32", "float16", "int8"] = "float32",
        **kwargs: Any,
    ) -> None:
        """Writes the averaged network, as `keras.Model.export`.

        The artifact takes what the network takes, with any batch size, and returns what
        `diffusion.prediction` says, like `x_t`.

        Args:
            filepath: a path: a folder for `"tf_saved_model"`, a file for `"onnx"`, a file that ends
                with .tflite for `"litert"`.
            format: `"tf_saved_model"` (with TensorFlow or JAX), `"onnx"` (with TensorFlow or
                PyTorch) or `"litert"` (with TensorFlow). In ONNX and LiteRT, a network of mixed
                precision computes in float32.
            dtype: `"float32"`, `"float16"` or `"int8"`, of the weights in a LiteRT file. The
                network computes in float32. int8 has a scale for each output channel.
            verbose, **kwargs: as for `keras.Model.export`.

        Raises:
            ImportError: if a package is missing.

        ```python
        model.export("flowers")
        # elsewhere, without Keras: tf.saved_model.load("flowers").serve([x_t, t])
        ```
        """
        network = self._exportable(format, NETWORK_FORMATS, filepath, dtype)
        _write(network, network.inputs, filepath, format, dtype, verbose=verbose, **kwargs)

    def export_sampler(
        self,
        filepath: PathLike,
        format: Literal["tf_saved_model", "onnx", "litert"] = "tf_saved_model",
        sampler: str | Sampler | None = None,
        clip_denoised: bool | float | None = None,
        guided: bool = False,
        dtype: Literal["float32", "float16", "int8"] = "float32",
        export_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Writes the whole sampling: what `generate` computes, as one program.

        The artifact takes a dict, each entry with any batch size: `noise` float32 `(batch, ...)`,
        x_T; with classes `label` int32 `(batch,)`, where `num_classes` means "no label"; if the
        network takes one, `condition` float32; if `guided`, `guidance_scale` float32 `(batch,)`; if
        the sampler adds noise, `seed` uint32 `(batch,)`, which should be at least `steps` apart. It
        returns float32 samples like `noise`.

        Args:
            filepath, format, dtype: as for `export`. ONNX needs TensorFlow. ONNX and LiteRT need a
                sampler that adds no noise; ONNX cannot hold `"heun"`, and LiteRT no percentile as
                `clip_denoised`.
            sampler, clip_denoised, **options: as for `generate`. The artifact keeps them.
            guided: bool, whether the artifact takes a guidance scale, which takes twice the time.
            export_options: optional dict, further options of `keras.Model.export`.

        ```python
        model.export_sampler("flowers", sampler="dpm_solver++", steps=20)
        # elsewhere, without Keras: tf.saved_model.load("flowers").serve({"noise": noise})
        ```
        """
        sampler = self.choose_sampler(sampler, **options)
        sampler.coefficients(self.diffusion, sampler.plan(self.diffusion))  # may refuse
        if check_bool("guided", guided):
            self.check_guidance("guided=True", self.num_classes)
        clip_denoised = self.choose_clip(clip_denoised)
        network = self._exportable(format, SAMPLER_FORMATS, filepath, dtype)
        needs_seeds = sampler.is_stochastic and format != "tf_saved_model"
        if needs_seeds or (isinstance(sampler, Heun) and format == "onnx"):
            raise ValueError(
                f"sampler={sampler!r} cannot be written with format={format!r}. ONNX and LiteRT "
                "have no random numbers with a seed, and tf2onnx writes no branches in a loop. "
                "Choose 'ddim' or 'dpm_solver++' with eta=0, or format='tf_saved_model'."
            )
        if format == "litert" and not isinstance(clip_denoised, bool):
            raise ValueError(
                f"clip_denoised={clip_denoised} cannot be written with format='litert', which has "
                "no percentiles. Choose True or False, or another format."
            )
        inputs = {"noise": keras.Input(self.sample_shape, dtype="float32", name="noise")}
        if self.num_classes is not None:
            inputs["label"] = keras.Input((), dtype="int32", name="label")
        if self.condition_shape is not None:
            inputs["condition"] = keras.Input(self.condition_shape, name="condition")
        if guided:
            inputs["guidance_scale"] = keras.Input((), dtype="float32", name="guidance_scale")
        if sampler.is_stochastic:
            inputs["seed"] = keras.Input((), dtype=SEED_DTYPE, name="seed")
        whole = self.loop_of(network).whole(sampler, clip_denoised)
        model = keras.Model(inputs, SamplingLayer(network, whole)(inputs))
        kwargs = {"verbose": False, **(export_options or {})}
        _write(model, inputs, filepath, format, dtype, **kwargs)

    def _exportable(self, format, formats, filepath, dtype):
        """The averaged network as the format needs it, if this backend can write this format."""
        self.check_layout()
        backends = formats[check_choice("format", format, formats)]
        backend = keras.backend.backend()
        if backend not in backends:
            able = [f"KERAS_BACKEND={name}" for name in backends]
            able += [f"format={name!r}" for name in formats if backend in formats[name]]
            raise ValueError(
                f"format={format!r} cannot be written with KERAS_BACKEND={backend}. Save the "
                f"model, and load and export it with {' or '.join(able)}."
            )
        if check_choice("dtype", dtype, DTYPES) != "float32" and format != "litert":
            raise ValueError(f"dtype={dtype!r} needs format='litert'.")
        if format == "litert" and Path(filepath).suffix != ".tflite":
            raise ValueError(f"filepath={str(filepath)!r} must end with .tflite.")
        for package in (*backends[backend], *DTYPES[dtype]):
            if importlib.util.find_spec(package) is None:
                extra = "tensorflow" if package == "tensorflow" else "export"
                what = f"dtype={dtype!r}" if package in DTYPES[dtype] else f"format={format!r}"
                raise ImportError(f'{what} needs {package}: pip install "keras-ddpm[{extra}]"')
        make_writable(Path(filepath).parent)
        network = self.ema_network
        is_mixed = any("float16" in layer.compute_dtype for layer in network.layers)
        becomes_float32 = is_mixed and format != "tf_saved_model"
        return copy_network(network, "float32") if becomes_float32 else network


class SamplingLayer(keras.layers.Layer):
    """The whole sampling as a layer, from x_T to samples; `whole` runs `network`."""

    def __init__(self, network, whole):
        super().__init__(dtype="float32")  # or the noise might come in as bfloat16
        self.network, self.whole = network, whole

    def call(self, inputs):
        names = ("label", "condition", "guidance_scale")
        conditions = [inputs[name] for name in names if name in inputs]
        return self.whole(inputs["noise"], inputs.get("seed"), conditions)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs["noise"].shape, "float32")


def _write(model, inputs, filepath, format, dtype, **kwargs):
    """As `keras.Model.export`, for functional models; a file is complete or not there."""
    if format == "litert":
        _write_litert(model, filepath, dtype, **kwargs)
        return
    if format == "tf_saved_model":
        if keras.backend.backend() == "jax":  # it cannot differentiate a while loop
            kwargs["jax2tf_kwargs"] = {"with_gradient": False, **kwargs.get("jax2tf_kwargs", {})}
        model.export(filepath, format=format, **kwargs)
        return
    import onnx

    kwargs.setdefault("input_signature", [inputs])  # Keras has it only for models that were called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: shapes other than the batch become constants
        model.export(filepath, format=format, **kwargs)
    try:
        onnx.checker.check_model(filepath)
    except onnx.checker.ValidationError:
        Path(filepath).unlink()  # tf2onnx only logs what it could not convert
        raise


def _write_litert(model, filepath, dtype, **kwargs):
    """A file of LiteRT's own operations, which every runtime of it has."""
    import tensorflow as tf

    options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if dtype == "float16":
        options["target_spec"]["supported_types"] = [tf.float16]
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    with atomic_write(filepath) as partial:
        model.export(partial, format="litert", **options, **kwargs)
        if dtype == "int8":
            from ai_edge_quantizer import Quantizer, recipe

            # TensorFlow's own int8 rounds what layers take as well, and costs far more quality.
            quantizer = Quantizer(partial, recipe.weight_only_wi8_afp32())
            result = quantizer.quantize(enable_progress_report=False, enable_progress_bar=False)
            partial.write_bytes(result.quantized_model)
