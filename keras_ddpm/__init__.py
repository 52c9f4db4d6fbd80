"""Denoising diffusion probabilistic models for Keras 3, on TensorFlow, JAX and PyTorch."""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("tensorflow", "jax", "torch"):
        raise
    raise ModuleNotFoundError(
        f"Keras needs {error.name}, which is not installed. Either `pip install "
        f"{error.name}`, or let the environment variable KERAS_BACKEND name one that is: "
        "tensorflow, jax or torch.",
        name=error.name,
    ) from None

from keras_ddpm.callbacks import SampleImages
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.editing import image_to_image, inpaint, invert
from keras_ddpm.interpolation import interpolate, mix_linear, mix_spherical
from keras_ddpm.mlp import build_mlp
from keras_ddpm.model import DiffusionModel
from keras_ddpm.optimal import OptimalDenoiser
from keras_ddpm.samplers import sample
from keras_ddpm.unet import build_unet

__all__ = [
    "DiffusionModel",
    "GaussianDiffusion",
    "OptimalDenoiser",
    "SampleImages",
    "build_mlp",
    "build_unet",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "mix_linear",
    "mix_spherical",
    "sample",
]
