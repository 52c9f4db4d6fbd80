"""Denoising diffusion probabilistic models for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_ddpm.callbacks import SampleImages
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.model import DiffusionModel
from keras_ddpm.samplers import sample
from keras_ddpm.unet import build_unet

__all__ = ["DiffusionModel", "GaussianDiffusion", "SampleImages", "build_unet", "sample"]
