"""LoRA (Hu et al. 2021): fine-tuning of two small matrices beside each kernel, W + A B."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import keras
from keras import ops
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.presets import named_weights
from keras_ddpm.types import PathLike
from keras_ddpm.validation import check_int, check_path

TABLE = "label_embedding"  # a matrix of few rows, which is trained as it is


class LoRA:
    """The part of a `DiffusionModel` that trains small matrices instead of its weights."""

    lora_rank: int | None = None

    def enable_lora(self, rank: int) -> None:
        """Freezes the network, and gives each Dense and convolution layer two matrices to train.

        A kernel W becomes W + A B with `rank` columns in A (Hu et al. 2021); B starts at zero.
        The network starts from its averaged weights. The label embedding is trained as well.
        Set `trainable = True` of further weights to train them too. Call `compile` afterwards.

        Args:
            rank: int >= 1.

        Raises a ValueError if LoRA is enabled already, or if no layer has it.

        ```python
        model = DiffusionModel.from_preset("drawn_flowers_16")
        model.enable_lora(rank=4)
        model.compile(keras.optimizers.Adam(3e-4))
        images, labels = draw_flowers(8, image_size=16)
        model.fit(images, labels, batch_size=8)
        model.save_lora("flowers.safetensors")
        ```
        """
        rank = check_int("rank", rank)
        self.check_layout()
        if self.lora_rank is not None:
            raise ValueError(
                f"rank={rank}: the model has LoRA of rank {self.lora_rank} already. Call "
                "`enable_lora` of the model that `merge_lora` returns."
            )
        names = [name for name, _ in lora_layers(self.network)]
        if not names:
            raise ValueError(f"rank={rank}: no layer of {self.network.name!r} has `enable_lora`.")
        self.network.set_weights(self.ema_network.get_weights())
        for weight in self.network.weights:
            weight.trainable = weight.path.startswith(f"{TABLE}/")
        for network in (self.network, self.ema_network):
            for _, layer in lora_layers(network):
                layer.enable_lora(rank)
        self.ema_network.set_weights(self.network.get_weights())
        self.freeze_average()
        self.updates.assign(0)
        self.lora_rank, self.compiled = rank, False
        self.make_programs()

    def save_lora(self, filepath: PathLike) -> Path:
        """Writes the averages of the weights that are trained, a file of safetensors of some kB.

        Returns its path, a `pathlib.Path`. A ValueError if LoRA is not enabled.
        """
        path = check_path("filepath", filepath)
        if path.suffix != ".safetensors":
            raise ValueError(f"filepath={str(filepath)!r} must end with .safetensors.")
        if self.lora_rank is None:
            raise ValueError(f"filepath={str(filepath)!r}: call `enable_lora` before.")
        trained = {weight.path for weight in self.network.trainable_weights}
        weights = {
            name: ops.convert_to_numpy(weight).copy(order="C")
            for name, weight in named_weights(self.ema_network).items()
            if name in trained
        }
        make_writable(path.parent)
        with atomic_write(path) as partial:
            save_file(weights, partial, {"rank": str(self.lora_rank)})
        return path

    def load_lora(self, filepath: PathLike) -> None:
        """Reads a file of `save_lora` into a model made as that one was, enabling LoRA if need be.

        Raises a FileNotFoundError, or a ValueError if it is damaged or of another model.
        """
        path = check_path("filepath", filepath)
        if not path.is_file():
            raise FileNotFoundError(f"filepath={str(filepath)!r}: there is no such file.")
        try:
            with safe_open(path, "numpy") as file:
                rank = int(file.metadata()["rank"])
            weights = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"filepath={str(filepath)!r} is no file of save_lora.") from error
        expected = self._shapes_with_lora(rank)
        for name, value in weights.items():
            if expected.get(name) != value.shape:
                raise ValueError(
                    f"filepath={str(filepath)!r} is of another model: {name!r} has shape "
                    f"{value.shape} there, and {expected.get(name, 'does not exist')} here. Make "
                    "the model from the same preset, with as many classes."
                )
        if self.lora_rank is None:
            self.enable_lora(rank)
        for network in (self.network, self.ema_network):
            for name, weight in named_weights(network).items():
                if name in weights:
                    weight.assign(weights[name])

    def merge_lora(self) -> Self:
        """An ordinary model with the kernels W + A B, which generates the same images.

        It is not compiled. A ValueError if LoRA is not enabled.
        """
        if self.lora_rank is None:
            raise ValueError("merge_lora: the model has no LoRA; call `enable_lora` before.")
        merged = type(self).from_config({**self.get_config(), "frozen": []})
        for target, source in (
            (merged.network, self.network),
            (merged.ema_network, self.ema_network),
        ):
            kernels = {f"{name}/kernel": layer.kernel for name, layer in lora_layers(source)}
            values = named_weights(source) | kernels
            for name, weight in named_weights(target).items():
                weight.assign(ops.convert_to_numpy(values[name]))
        merged.data_mean.assign(ops.convert_to_numpy(self.data_mean))
        merged.updates.assign(ops.convert_to_numpy(self.updates))
        return merged

    def check_merged(self):
        """Refuses to write a model with LoRA, or one whose weights are others than before."""
        self.check_layout()
        if self.lora_rank is not None:
            raise ValueError(
                f"the model has LoRA of rank {self.lora_rank}: write its matrices with `save_lora`,"
                " or the model that `merge_lora` returns."
            )

    def _shapes_with_lora(self, rank):
        """The shapes of all weights by name, as they are with LoRA of this rank."""
        network = self.ema_network
        shapes = {name: tuple(weight.shape) for name, weight in named_weights(network).items()}
        for name, layer in lora_layers(network):
            *inputs, outputs = layer.kernel.shape
            shapes[f"{name}/lora_kernel_a"] = (*inputs, rank)
            shapes[f"{name}/lora_kernel_b"] = (rank, outputs)
        if self.lora_rank not in (None, rank):
            raise ValueError(f"filepath: its rank is {rank}, that of the model {self.lora_rank}.")
        return shapes


def lora_layers(network):
    """Pairs of name and layer: the layers with kernels that have LoRA, also parts of blocks."""
    found = []
    for weight in network.weights:
        name, _, kind = weight.path.rpartition("/")
        if kind != "kernel":
            continue
        first, *parts = name.split("/")
        layer = network.get_layer(first)
        for part in parts:  # a block names its parts as its attributes
            layer = getattr(layer, part, None)
        if isinstance(layer, keras.Layer) and hasattr(layer, "enable_lora"):
            found.append((name, layer))
    return found
