"""Models from elsewhere, and for elsewhere."""

from keras_ddpm.interop.diffusers import Converted, from_diffusers, to_diffusers

__all__ = ["Converted", "from_diffusers", "to_diffusers"]
