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

from keras_ddpm.files import make_writable
from keras_ddpm.model.saving import copy_network
from keras_ddpm.samplers import Heun, Sampler
from keras_ddpm.samplers.noise import SEED_DTYPE
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_bool, check_choice

# Format -> backend -> the packages that Keras needs.
NETWORK_FORMATS = {
    "tf_saved_model": {"tensorflow": (), "jax": ("tensorflow",)},
    "onnx": {"tensorflow": ("tf2onnx", "onnx"), "torch": ("onnx",)},
}
SAMPLER_FORMATS = {**NETWORK_FORMATS, "onnx": {"tensorflow": ("tf2onnx", "onnx")}}


class Export:
    """The part of a `DiffusionModel` that writes files for other runtimes."""

    def export(
        self,
        filepath: PathLike,
        format: Literal["tf_saved_model", "onnx"] = "tf_saved_model",
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes the averaged network, as `keras.Model.export`.

        The artifact takes what the network takes, with any batch size, and returns what
        `diffusion.prediction` says, like `x_t`.

        Args:
            filepath: a path: a folder for `"tf_saved_model"`, a file for `"onnx"`.
            format: `"tf_saved_model"` (with TensorFlow or JAX) or `"onnx"` (with TensorFlow or
                PyTorch). In ONNX, a network of mixed precision computes in float32.
            verbose, **kwargs: as for `keras.Model.export`.

        Raises:
            ImportError: if a package is missing.

        ```python
        model.export("flowers")
        # elsewhere, without Keras: tf.saved_model.load("flowers").serve([x_t, t])
        ```
        """
        network = self._exportable(format, NETWORK_FORMATS, filepath)
        _write(network, network.inputs, filepath, format, verbose=verbose, **kwargs)

    def export_sampler(
        self,
        filepath: PathLike,
        format: Literal["tf_saved_model", "onnx"] = "tf_saved_model",
        sampler: str | Sampler | None = None,
        clip_denoised: bool | float | None = None,
        guided: bool = False,
        export_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Writes the whole sampling: what `generate` computes, as one program.

        The artifact takes a dict, each entry with any batch size: `noise` float32 `(batch, ...)`,
        x_T; with classes `label` int32 `(batch,)`, where `num_classes` means "no label"; if
        `guided`, `guidance_scale` float32 `(batch,)`; if the sampler adds noise, `seed` uint32
        `(batch,)`, which should be at least `steps` apart. It returns float32 samples like `noise`.

        Args:
            filepath, format: as for `export`. ONNX needs TensorFlow, and a sampler that adds no
                noise, other than `"heun"`.
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
            if self.num_classes is None:
                raise ValueError("guided=True needs a network with classes.")
            self.check_guidance("guided=True")
        network = self._exportable(format, SAMPLER_FORMATS, filepath)
        if format == "onnx" and (sampler.is_stochastic or isinstance(sampler, Heun)):
            raise ValueError(
                f"sampler={sampler!r} cannot be written as ONNX, which has neither random numbers "
                "with a seed nor, in tf2onnx, branches in a loop. Choose 'ddim' or 'dpm_solver++' "
                "with eta=0, or format='tf_saved_model'."
            )
        inputs = {"noise": keras.Input(self.sample_shape, dtype="float32", name="noise")}
        if self.num_classes is not None:
            inputs["label"] = keras.Input((), dtype="int32", name="label")
        if guided:
            inputs["guidance_scale"] = keras.Input((), dtype="float32", name="guidance_scale")
        if sampler.is_stochastic:
            inputs["seed"] = keras.Input((), dtype=SEED_DTYPE, name="seed")
        whole = self.loop_of(network).whole(sampler, self.choose_clip(clip_denoised))
        model = keras.Model(inputs, SamplingLayer(network, whole)(inputs))
        _write(model, inputs, filepath, format, **{"verbose": False, **(export_options or {})})

    def _exportable(self, format, formats, filepath):
        """The averaged network, in float32 for ONNX, if this backend can write this format."""
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
        for package in backends[backend]:
            if importlib.util.find_spec(package) is None:
                extra = "tensorflow" if package == "tensorflow" else "export"
                raise ImportError(
                    f'format={format!r} needs {package}: pip install "keras-ddpm[{extra}]"'
                )
        make_writable(Path(filepath).parent)
        network = self.ema_network
        is_mixed = any("float16" in layer.compute_dtype for layer in network.layers)
        return copy_network(network, "float32") if format == "onnx" and is_mixed else network


class SamplingLayer(keras.layers.Layer):
    """The whole sampling as a layer, from x_T to samples; `whole` runs `network`."""

    def __init__(self, network, whole):
        super().__init__(dtype="float32")  # or the noise might come in as bfloat16
        self.network, self.whole = network, whole

    def call(self, inputs):
        conditions = [inputs[name] for name in ("label", "guidance_scale") if name in inputs]
        return self.whole(inputs["noise"], inputs.get("seed"), conditions)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs["noise"].shape, "float32")


def _write(model, inputs, filepath, format, **kwargs):
    """As `keras.Model.export`, for functional models; an ONNX file is complete or not there."""
    if format != "onnx":
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
