"""`DiffusionModel`: a network, a diffusion process and averaged weights, as a `keras.Model`."""

from keras_ddpm.model.distillation import distill
from keras_ddpm.model.load import load_diffusion_model
from keras_ddpm.model.model import DiffusionModel
