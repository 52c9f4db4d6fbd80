"""What a `.keras` file holds of a `DiffusionModel` beside its weights."""

import keras
import numpy as np
from keras import ops


class Saving:
    """The part of a `DiffusionModel` that is written and read back, on any backend."""

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
