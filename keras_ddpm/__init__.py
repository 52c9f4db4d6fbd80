"""Denoising diffusion probabilistic models for Keras 3, on TensorFlow, JAX and PyTorch.

A wrong argument is a TypeError or ValueError that names the argument and its value.
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("tensorflow", "jax", "torch"):
        raise
    raise ModuleNotFoundError(
        f"Keras needs {error.name}, which is not installed. Either `pip install {error.name}`, or "
        "set the environment variable KERAS_BACKEND to tensorflow, jax or torch, whichever is.",
        name=error.name,
    ) from None
except ValueError as error:
    raise ImportError(
        f"{error}. Set the environment variable KERAS_BACKEND to tensorflow, jax or torch."
    ) from None

from keras_ddpm.callbacks import SampleImages
from keras_ddpm.callbacks.checkpoint import Checkpoint
from keras_ddpm.conditions import Colouring, Inpainting, SuperResolution
from keras_ddpm.data import ImageDataset, load_images
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.editing import image_to_image, interpolate, invert, lerp, slerp
from keras_ddpm.mlp import MLP
from keras_ddpm.model import DiffusionModel, distill, load_diffusion_model
from keras_ddpm.optimal import OptimalDenoiser
from keras_ddpm.optimizers import FusedAdam
from keras_ddpm.plotting import filmstrip, image_grid, save_gif, save_image
from keras_ddpm.presets import list_presets, upload_preset
from keras_ddpm.restoration import colour, inpaint, upscale
from keras_ddpm.samplers import DDIM, DDPM, DPMSolverPlusPlus, Heun, sample
from keras_ddpm.unet import UNet

__version__ = "0.1.0"

__all__ = [
    "__version__",
    # Models.
    "DiffusionModel",
    "GaussianDiffusion",
    "MLP",
    "UNet",
    "list_presets",
    "load_diffusion_model",
    "upload_preset",
    # Training.
    "Checkpoint",
    "Colouring",
    "FusedAdam",
    "ImageDataset",
    "Inpainting",
    "SampleImages",
    "SuperResolution",
    "distill",
    "load_images",
    # Sampling.
    "DDIM",
    "DDPM",
    "DPMSolverPlusPlus",
    "Heun",
    "OptimalDenoiser",
    "sample",
    # Edits.
    "colour",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "lerp",
    "slerp",
    "upscale",
    # Pictures.
    "filmstrip",
    "image_grid",
    "save_gif",
    "save_image",
]


def __dir__():
    return __all__
