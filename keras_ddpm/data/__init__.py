"""Images for training: load them once as bytes, then batch them reproducibly. And points.

`load_images` is the one way in; `ImageDataset` is what `model.fit` takes. TensorFlow and
TensorFlow Datasets are imported only when `load_tfds` runs.
"""

from keras_ddpm.data.dataset import ImageDataset
from keras_ddpm.data.drawn_flowers import draw_flowers
from keras_ddpm.data.folder import load_folder
from keras_ddpm.data.images import ImageSet, load_images
from keras_ddpm.data.keras_datasets import load_keras_dataset
from keras_ddpm.data.points import draw_mixture, draw_moons, draw_spiral, mixture_means
from keras_ddpm.data.read_flowers import describe_flowers
from keras_ddpm.data.tfds import load_tfds

__all__ = [
    "ImageDataset",
    "ImageSet",
    "describe_flowers",
    "draw_flowers",
    "draw_mixture",
    "draw_moons",
    "draw_spiral",
    "load_folder",
    "load_images",
    "load_keras_dataset",
    "load_tfds",
    "mixture_means",
]
