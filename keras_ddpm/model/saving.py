"""What a `.keras` file holds of a `DiffusionModel`, and copies of models and networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from keras_ddpm.devices import alone
from keras_ddpm.files import atomic_write
from keras_ddpm.layers import choose_policy
from keras_ddpm.model.adapting import adapt
from keras_ddpm.presets import STATES, read_preset, write_preset
from keras_ddpm.samplers import get_sampler, sampler_config
from keras_ddpm.types import ImageSize, PathLike

NO_OTHER_WEIGHTS = (
    "a DiffusionModel cannot follow what enable_lora of a layer and quantize do to a network. Make "
    "the model anew, or load it again; LoRA has `DiffusionModel.enable_lora`."
)


class Saving:
    """The part of a `DiffusionModel` that writes it and reads it back, on any backend."""

    def save(
        self,
        filepath: PathLike,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.save`, but the file is complete or as it was before.

        One of several processes can do it without the others.
        """
        if zipped is not False and Path(filepath).suffix != ".keras":
            raise ValueError(f"filepath={str(filepath)!r} must end with .keras.")
        self.check_merged()  # before a file is opened
        with alone():  # Keras makes an optimizer for it
            if not overwrite or zipped is False:
                super().save(filepath, overwrite, zipped, **kwargs)
                return
            with atomic_write(filepath) as partial:
                super().save(partial, zipped=zipped, **kwargs)

    def save_to_preset(
        self,
        folder: PathLike,
        description: str = "",
        dtype: Literal["float16", "float32"] = "float16",
        license: str = "",
    ) -> Path:
        """Writes a preset: a folder with config, averaged weights and model card.

        In float16 it takes an eighth of the bytes of `save`. Use `save` to go on with a training.
        `upload_preset` puts the folder on the Hugging Face Hub.

        Args:
            folder: a path; it is created, and files of the same names are replaced.
            description: str, Markdown for the model card: what it was trained on, and how.
            dtype: `"float16"` or `"float32"`, of the weights on disk.
            license: str, for the model card, as the hub calls it, such as `"apache-2.0"`.

        Returns:
            The folder, a `pathlib.Path`.

        >>> model.save_to_preset("my_flowers", "Trained on my garden for 100 epochs.").name
        'my_flowers'
        """
        return write_preset(self, folder, description, dtype, license)

    @classmethod
    def from_preset(
        cls,
        preset: PathLike,
        image_size: ImageSize | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """The model of a preset, on any backend. It is not compiled.

        `preset` is a folder, one of `list_presets`, or one on the Hugging Face Hub:
        `"hf://user/name"` or `"hf://user/name@revision"`, which needs the extra `hub`. With one of
        the other arguments the model is made ready for fine-tuning, see `adapt`. Without such a
        preset there is a FileNotFoundError that names those there are, and a ValueError for
        damaged files. A RuntimeError says why nothing could be downloaded.

        >>> DiffusionModel.from_preset("drawn_flowers_16").sample_shape
        (16, 16, 3)
        >>> DiffusionModel.from_preset("drawn_flowers_16", num_classes=2).num_classes
        2
        """
        model = read_preset(cls, preset)
        changes = (image_size, num_classes, class_names)
        return model if changes == (None, None, None) else model.adapt(*changes)

    def adapt(
        self,
        image_size: ImageSize | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """A model to fine-tune on other data, with a `UNet`: the network and its average start from
        these averaged weights. It is not compiled, and counts its updates from 0, so that the
        average soon follows the new data.

        Args:
            image_size: optional int or (height, width). The network is fully convolutional.
            num_classes: optional int, 0 for a network without classes. New classes get random rows
                of the label embedding; "no label" computes what it did, or what the network
                without classes did.
            class_names: optional names of the classes. Those that the model has keep their rows.
            **options: other arguments of `DiffusionModel`, such as ema_decay and seed.

        >>> model = DiffusionModel.from_preset("drawn_flowers_16")
        >>> model.adapt(image_size=32, num_classes=5).sample_shape
        (32, 32, 3)
        """
        return adapt(self, image_size, num_classes, class_names, options)

    def with_dtype_policy(self, policy: str) -> Self:
        """A copy that computes under the policy `"float32"`, `"mixed_bfloat16"` or
        `"mixed_float16"`. Its weights are float32. It is not compiled.

        >>> model.with_dtype_policy("mixed_bfloat16").network.dtype_policy.name
        'mixed_bfloat16'
        """
        if policy is None:
            raise TypeError("policy=None must be the name of a dtype policy.")
        self.check_merged()
        config = self.get_config()
        network = copy_network(self.network, policy)
        config |= {"network": keras.saving.serialize_keras_object(network), "dtype": None}
        copy = type(self).from_config(config)
        copy.network.set_weights(self.network.get_weights())
        copy.ema_network.set_weights(self.ema_network.get_weights())
        for state in STATES:
            # By value: JAX would share the array, and give it away in a step of the copy.
            getattr(copy, state).assign(ops.convert_to_numpy(getattr(self, state)))
        return copy

    def save_own_variables(self, store):
        """The random states, so that a loaded model goes on where it stopped."""
        for state in STATES:
            store[state] = ops.convert_to_numpy(getattr(self, state))
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state).astype("int64")

    def load_own_variables(self, store):
        for state in STATES:
            getattr(self, state).assign(store[state])
        for i, state in enumerate(self._seed_states()):
            # Bits, not values: a backend's seeds may be signed or unsigned.
            value = np.array(store[f"seed_{i}"]).astype("uint32")
            dtype = keras.backend.standardize_dtype(state.dtype)
            state.assign(value.view("int32") if dtype == "int32" else value.astype(dtype))

    def _seed_states(self):
        return [v for v in self.non_trainable_variables if v.name == "seed_generator_state"]

    def get_config(self) -> dict[str, Any]:
        self.check_layout()
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "diffusion": keras.saving.serialize_keras_object(self.diffusion),
            "ema_decay": self.ema_decay,
            "label_dropout": self.label_dropout,
            "condition_dropout": self.condition_dropout,
            "conditioning": keras.saving.serialize_keras_object(self.conditioning),
            "class_names": self.class_names,
            "min_snr_gamma": self.min_snr_gamma,
            "timestep_distribution": self.timestep_distribution,
            "sampler": self.sampler and sampler_config(self.sampler),
            "seed": self.seed,
            "dtype": self.dtype_policy.name,
            "frozen": [weight.path for weight in self.network.weights if not weight.trainable],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("network", "diffusion"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
            if config[part] is None:
                raise ValueError(f"the configuration has no {part}.")
        conditioning = config.pop("conditioning", None)
        config["conditioning"] = keras.saving.deserialize_keras_object(conditioning, custom_objects)
        if isinstance(sampler := config.get("sampler"), dict):
            config["sampler"] = get_sampler(**sampler)
        frozen = config.pop("frozen", [])
        if not isinstance(frozen, list) or not all(isinstance(path, str) for path in frozen):
            raise ValueError(f"frozen={frozen!r} must be a list of paths of weights.")
        model = cls(**config)
        for weight in model.network.weights:
            weight.trainable = weight.trainable and weight.path not in frozen
        return model

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:  # never compiled
            return config
        # "auto" as the user gave it, not what this backend made of it: the next may choose again.
        return {**_portable(config), "jit_compile": self.requested_jit_compile}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))


def _portable(config):
    """PyTorch writes optimizer classes of its own; every backend can load their originals."""
    if isinstance(config, dict):
        config = {key: _portable(value) for key, value in config.items()}
        if ".torch." in str(config.get("module")):
            config.update(module="keras.optimizers", registered_name=config["class_name"])
    return config


def copy_network(network, policy=None):
    """A copy of a network with the same weights, optionally under another dtype policy."""
    config = network.get_config()
    if policy is not None:
        policy = choose_policy(policy, "policy")
        if policy.variable_dtype != "float32" or "dtype" not in config:
            raise ValueError(
                f"policy={policy.name!r} must be 'float32', 'mixed_bfloat16' or 'mixed_float16', "
                "and the network a UNet, MLP, or another whose config has a dtype."
            )
        config["dtype"] = policy.name
    copy = type(network).from_config(config)
    if len(copy.weights) != len(network.weights):
        raise ValueError(f"network={network.name!r} has weights of its own: {NO_OTHER_WEIGHTS}")
    copy.set_weights(network.get_weights())
    return copy
