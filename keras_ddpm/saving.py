"""What a `.keras` file holds of a `DiffusionModel` beside its weights."""

import keras
import numpy as np
from keras import ops

from keras_ddpm.devices import alone
from keras_ddpm.presets import assign_weights, read_preset, write_preset


class Saving:
    """The part of a `DiffusionModel` that is written and read back, on any backend."""

    def save(self, filepath, *args, **kwargs):
        """As `keras.Model.save`. One of several processes can do it, without the others."""
        with alone():  # Keras makes an optimizer in between, only to look at it
            super().save(filepath, *args, **kwargs)

    def save_to_preset(self, folder, description="", dtype="float16"):
        """Writes what sampling needs to a folder: config, averaged weights and a model card.

        Half the precision is a quarter of the bytes of a network and its average, and an eighth
        of what `save` writes. To go on with a training, use `save`.

        Args:
            folder: a path; it is created, and files of the same names are replaced.
            description: str, Markdown for the model card: what it was trained on, and how.
            dtype: `"float16"` or `"float32"`, of the weights on disk.

        Returns:
            The folder, a `pathlib.Path`.

        Raises:
            OSError: if the folder cannot be written to.
            ValueError: for another dtype, or weights that it cannot hold.

        Example:

        >>> model.save_to_preset("my_flowers", "Trained on my garden for 100 epochs.")
        >>> DiffusionModel.from_preset("my_flowers").generate(16)
        """
        return write_preset(self, folder, description, dtype)

    @classmethod
    def from_preset(cls, preset):
        """The model that `save_to_preset` wrote, on any backend. It is not compiled.

        Args:
            preset: a folder, or the name of a preset that comes with the package:
                `keras_ddpm.presets.list_presets()`.

        Raises:
            FileNotFoundError: if there is no such preset; the message names those there are.
            ValueError: if its files are damaged.

        Example:

        >>> model = DiffusionModel.from_preset("drawn_flowers_16")
        >>> images = model.generate(labels=["red 5-petalled"], guidance_scale=2.0)
        """
        config, weights = read_preset(preset)
        model = cls.from_config(config)
        assign_weights(model, weights)
        return model

    def save_own_variables(self, store):
        """Random states, beside the weights, so that a loaded model goes on where it stopped."""
        store["data_mean"] = ops.convert_to_numpy(self.data_mean)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state).astype("int64")

    def load_own_variables(self, store):
        self.data_mean.assign(store["data_mean"])
        for i, state in enumerate(self._seed_states()):
            # Bits, not values: a backend's seeds may be signed or unsigned.
            value = np.array(store[f"seed_{i}"]).astype("uint32")
            dtype = keras.backend.standardize_dtype(state.dtype)
            state.assign(value.view("int32") if dtype == "int32" else value.astype(dtype))

    def _seed_states(self):
        return [v for v in self.non_trainable_variables if v.name == "seed_generator_state"]

    def get_config(self):
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "diffusion": keras.saving.serialize_keras_object(self.diffusion),
            "ema_decay": self.ema_decay,
            "label_dropout": self.label_dropout,
            "label_names": self.label_names,
            "min_snr_gamma": self.min_snr_gamma,
            "remat": self.remat,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("network", "diffusion"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:  # never compiled
            return config
        # "auto" as the user left it, not what this backend made of it: the next may choose again.
        return {**_portable(config), "jit_compile": self._asked_jit_compile}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))


def _portable(config):
    """torch writes classes of its own for optimisers; every backend can load their originals."""
    if isinstance(config, dict):
        config = {key: _portable(value) for key, value in config.items()}
        if ".torch." in str(config.get("module")):
            config.update(module="keras.optimizers", registered_name=config["class_name"])
    return config
