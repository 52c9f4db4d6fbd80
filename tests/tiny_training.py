"""A small model to train, its data, and what is looked at while it trains."""

import keras
import numpy as np
from conftest import states, tiny_network
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")
FLOATS = IMAGES.astype("float32") / 127.5 - 1
LABELS = np.arange(8, dtype="int32") % 3
IMAGES.setflags(write=False)


def make_model(optimizer=None, num_classes=None, dropout=0.0, seed=0, compile_kwargs=(), **kwargs):
    keras.utils.set_random_seed(0)
    diffusion = kwargs.pop("diffusion", None) or GaussianDiffusion(50, "cosine")
    make_network = kwargs.pop("make_network", tiny_network)
    network = make_network(num_classes=num_classes, dropout=dropout)
    model = DiffusionModel(network, diffusion, seed=seed, **kwargs)
    model.compile(optimizer or keras.optimizers.Adam(1e-2), **dict(compile_kwargs))
    return model


def fit(model, x=FLOATS, y=None, batch_size=4, **kwargs):
    return model.fit(x, y, batch_size, verbose=0, shuffle=False, **kwargs).history["loss"]


class Record(keras.callbacks.Callback):
    """Keeps every state before training and after each batch."""

    def on_train_begin(self, logs=None):
        self.states = [states(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(states(self.model))

    def group(self, name):
        return [[v for k, v in s.items() if k.startswith(name)] for s in self.states]


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b))


def fixed_draw(shape, validation=False):
    rng = np.random.default_rng(7)
    t = np.linspace(0, 49, shape[0]).astype("int32")
    noise = rng.standard_normal((shape[0], 8, 8, 1)).astype("float32")
    return ops.convert_to_tensor(t), ops.convert_to_tensor(noise), ops.zeros((shape[0],), "bool")
