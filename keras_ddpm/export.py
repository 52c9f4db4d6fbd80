"""Exports: the averaged network, or the whole way from noise to images, for runtimes without Keras.

Keras writes the files. This makes a model of what is to be written, and refuses at once what cannot
be. A model saved on one backend loads on every other, so what one cannot export another can.
"""

import importlib.util
import warnings
from pathlib import Path

import keras

from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.files import make_writable
from keras_ddpm.precision import network_in
from keras_ddpm.samplers import Heun, make_sampler, plan_timesteps
from keras_ddpm.samplers.seeds import SEED_DTYPE
from keras_ddpm.validation import check_choice

# Backend -> packages that Keras needs for the format there.
SAVED_MODEL = {"tensorflow": (), "jax": ("tensorflow",)}
NETWORK_FORMATS = {
    "tf_saved_model": SAVED_MODEL,
    "onnx": {"tensorflow": ("tf2onnx", "onnx"), "torch": ("onnx",)},
}
SAMPLER_FORMATS = {
    "tf_saved_model": SAVED_MODEL,
    "onnx": {"tensorflow": ("tf2onnx", "onnx")},
}
EXTRAS = {"tensorflow": "tensorflow"}  # the others come with the extra "export"


class Export:
    """The part of a `DiffusionModel` that leaves Keras."""

    def export(self, filepath, format="tf_saved_model", verbose=False, **kwargs):
        """Writes the averaged network, as `keras.Model.export`, for sampling loops elsewhere.

        The artifact takes what the network takes, each with any batch size: `x_t` float32
        `(batch, ...)`, `t` int32 `(batch,)`, and with classes `label` int32 `(batch,)`, where
        `num_classes` means "no label". It returns the prediction, like `x_t`: what
        `diffusion.prediction` says.

        Args:
            filepath: a path: a folder for `"tf_saved_model"`, a file for `"onnx"`.
            format: `"tf_saved_model"` (with TensorFlow or JAX) or `"onnx"` (with TensorFlow or
                PyTorch). In ONNX, a network of mixed precision computes in float32, from the same
                weights.
            verbose: bool, whether Keras lists all that it wrote.
            **kwargs: further options of `keras.Model.export`.

        Raises:
            ImportError: if a package is missing; the message names it.
            OSError: if the folder cannot be written to.
            ValueError: if this backend cannot write this format; the message says which can.

        Example:

        >>> model.export("flowers")
        >>> artifact = tf.saved_model.load("flowers")  # elsewhere, without Keras
        >>> prediction = artifact.serve([x_t, t])
        """
        check_format(format, NETWORK_FORMATS, "the network")
        make_writable(Path(filepath).parent)
        network = self.ema_network if format != "onnx" else network_in(self.ema_network, "float32")
        write(network, network.inputs, filepath, format, verbose=verbose, **kwargs)

    def export_sampler(
        self,
        filepath,
        format="tf_saved_model",
        sampler="ddim",
        steps=None,
        timesteps=None,
        spacing=None,
        eta=0.0,
        clip_denoised=None,
        guided=False,
        verbose=False,
        **kwargs,
    ):
        """Writes the whole way from noise to images: what `generate` computes, as one program.

        The artifact takes a dict, each entry with any batch size:

        - `noise`: float32 `(batch, ...)`, x_T, standard normal;
        - with classes, `label`: int32 `(batch,)`, where `num_classes` means "no label";
        - if `guided`, `guidance_scale`: float32 `(batch,)`, so that one artifact serves every
          scale, and every image may have its own;
        - if the sampler adds noise, `seed`: uint32 `(batch,)`. Step s of an image draws from
          `seed + s`, so seeds should be at least `steps` apart.

        It returns float32 samples like `noise`, images in [-1, 1].

        Args:
            filepath, format, verbose, **kwargs: as for `export`. ONNX needs TensorFlow, and a
                sampler that adds no noise, other than `"heun"`.
            sampler, steps, timesteps, spacing, eta, clip_denoised: as for `generate`. They are
                fixed in the artifact.
            guided: bool, whether the samples can be pushed towards their labels. Each step then
                runs the network on twice the batch, even where the scale is 1.

        Raises:
            ImportError, OSError: as for `export`.
            ValueError: if this cannot be exported; the message says what can.

        Example:

        >>> model.export_sampler("flowers.onnx", format="onnx", sampler="dpm_solver++", steps=20)
        >>> session = onnxruntime.InferenceSession("flowers.onnx")  # elsewhere, without Keras
        >>> images = session.run(None, {"noise": noise})[0]
        """
        check_format(format, SAMPLER_FORMATS, "the sampling")
        sampler = make_sampler(sampler, eta)
        timesteps = plan_timesteps(self.diffusion, sampler, steps, timesteps, spacing)
        clip_denoised = self.is_image if clip_denoised is None else clip_denoised
        check_clip_denoised(clip_denoised)
        self._check_guided(guided)
        if format == "onnx":
            check_onnx_sampler(sampler)
        make_writable(Path(filepath).parent)
        network = self.ema_network if format != "onnx" else network_in(self.ema_network, "float32")
        walk = self.loop_of(network).whole(sampler, timesteps, clip_denoised)
        inputs = self._sampler_inputs(guided, sampler.is_stochastic)
        model = keras.Model(inputs, Walk(network, walk)(inputs))
        write(model, inputs, filepath, format, verbose=verbose, **kwargs)

    def _sampler_inputs(self, guided, is_stochastic):
        inputs = {"noise": keras.Input(self.sample_shape, dtype="float32", name="noise")}
        if self.num_classes is not None:
            inputs["label"] = keras.Input((), dtype="int32", name="label")
        if guided:
            inputs["guidance_scale"] = keras.Input((), dtype="float32", name="guidance_scale")
        if is_stochastic:
            inputs["seed"] = keras.Input((), dtype=SEED_DTYPE, name="seed")
        return inputs

    def _check_guided(self, guided):
        if guided and self.num_classes is None:
            raise ValueError("guided=True needs a network with classes. Leave guided at False.")
        if guided and self.label_dropout == 0:
            raise ValueError(
                'guided=True compares with "no label", which this model never saw: it was made '
                "with label_dropout=0. Leave guided at False, or train with label_dropout=0.1."
            )


class Walk(keras.layers.Layer):
    """The reverse process as a layer, from x_T and what steers it to samples.

    Args:
        network: the `keras.Model` that `walk` runs; a layer has to know its weights.
        walk: what `SamplingLoop.whole` makes.
    """

    def __init__(self, network, walk):
        super().__init__(dtype="float32")  # or the noise might come in as bfloat16
        self.network, self.walk = network, walk

    def call(self, inputs):
        conditions = [inputs[name] for name in ("label", "guidance_scale") if name in inputs]
        return self.walk(inputs["noise"], inputs.get("seed"), conditions)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs["noise"].shape, "float32")


def write(model, inputs, filepath, format, **kwargs):
    """As `keras.Model.export`, for functional models; an ONNX file is whole, or not there."""
    if format != "onnx":
        if keras.backend.backend() == "jax":  # it cannot differentiate a while loop
            kwargs["jax2tf_kwargs"] = {"with_gradient": False, **kwargs.get("jax2tf_kwargs", {})}
        model.export(filepath, format=format, **kwargs)
        return
    import onnx

    kwargs.setdefault("input_signature", [inputs])  # Keras knows it only of models that ran
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: shapes, but for the batch, become constants
        model.export(filepath, format=format, **kwargs)
    try:
        onnx.checker.check_model(filepath)
    except onnx.checker.ValidationError:
        Path(filepath).unlink()  # tf2onnx only logs what it could not convert
        raise


def check_format(format, formats, what):
    """Complains unless this backend can write this format, and all it takes is installed."""
    check_choice("format", format, formats)
    backends, backend = formats[format], keras.backend.backend()
    if backend not in backends:
        able = " or ".join(f"KERAS_BACKEND={name}" for name in backends)
        others = [name for name in formats if backend in formats[name]]
        raise ValueError(
            f"format={format!r} of {what} cannot be written with KERAS_BACKEND={backend}. Save the "
            f"model, and load and export it with {able}"
            + (f"; or choose format={others[0]!r}." if others else ".")
        )
    for package in backends[backend]:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"format={format!r} needs the package {package}: "
                f'pip install -e ".[{EXTRAS.get(package, "export")}]"'
            )


def check_onnx_sampler(sampler):
    """Complains of samplers that tf2onnx cannot convert."""
    able = "sampler='ddim' or sampler='dpm_solver++' with eta=0"
    if sampler.is_stochastic:
        raise ValueError(
            "ONNX has no random numbers that a seed determines, so a sampler that adds noise "
            f"cannot be exported to it. Choose {able}, or format='tf_saved_model'."
        )
    if isinstance(sampler, Heun):
        raise ValueError(
            "sampler='heun' decides in each step whether to look twice, which cannot be exported "
            f"to ONNX. Choose {able}, or format='tf_saved_model'."
        )
