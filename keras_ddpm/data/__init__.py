"""Images for training: loaded once as bytes by `load_images`, batched by `ImageDataset`."""

from keras_ddpm.data.dataset import ImageDataset
from keras_ddpm.data.drawn_flowers import draw_flowers
from keras_ddpm.data.folder import load_folder
from keras_ddpm.data.hub import load_hub
from keras_ddpm.data.images import ImageSet
from keras_ddpm.data.keras_datasets import load_keras_dataset
from keras_ddpm.data.load import load_images
from keras_ddpm.data.tfds import load_tfds
