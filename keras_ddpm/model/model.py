"""`DiffusionModel`: a network, a diffusion process and an averaged copy, as a `keras.Model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_ddpm.backend import TrainStep, network_function
from keras_ddpm.conditions import Conditioning, check_conditioning
from keras_ddpm.described import Described
from keras_ddpm.devices import check_batches
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.model import faults
from keras_ddpm.model.batches import batch_sizes
from keras_ddpm.model.export import Export
from keras_ddpm.model.generation import Generation
from keras_ddpm.model.lora import LoRA
from keras_ddpm.model.options import check_compile_options, check_fit_options
from keras_ddpm.model.saving import Saving, copy_network
from keras_ddpm.model.training import Training
from keras_ddpm.model.weights import Weights, check_network
from keras_ddpm.samplers import Sampler, get_sampler
from keras_ddpm.schedules import min_snr_weights
from keras_ddpm.validation import (
    check_choice,
    check_class_names,
    check_instance,
    check_int,
    check_number,
)

VALIDATION_SEED = 2020  # any fixed number: each evaluation then draws the same noise


@keras.saving.register_keras_serializable("keras_ddpm")
class DiffusionModel(
    Described, TrainStep, Training, Weights, LoRA, Generation, Saving, Export, keras.Model
):
    """Trains a denoiser with `fit`, and samples from its averaged weights with `generate`.

    ```python
    network = UNet(16, widths=(8, 16), has_attention=(False, True))
    model = DiffusionModel(network, GaussianDiffusion())
    model.compile(optimizer=keras.optimizers.Adam(2e-4), loss="mse")
    model.fit(np.zeros((32, 16, 16, 3), "uint8"), batch_size=8, epochs=1)
    samples = model.generate(4, sampler="ddim", steps=20, seed=0)
    model.save("model.keras")
    ```

    What one calls:

    - `compile`, `fit`, `evaluate`: as with any Keras model. They take images, or (images, labels),
      from NumPy, tf.data, a PyDataset or a torch DataLoader: uint8, or float in [-1, 1],
      `(batch, height, width, channels)`. A network with a condition also takes dicts with
      `"images"`, `"condition"` and, with classes, `"labels"`.
    - `generate`, `watch`: samples, at once or while they emerge.
    - `save`, `save_to_preset`, `from_preset`: files and folders with all that is needed.
    - `adapt`, `enable_lora`: fine-tuning, for other classes and image sizes, or with few weights.
    - `export_sampler`, `export`: files that run without Keras.
    - `with_dtype_policy`: the same model in another precision.

    Args:
        network: a `UNet` or `MLP`, or another functional `keras.Model` that is called as
            `network([x_t, t])`, or as `network([x_t, t, label])` with an Embedding layer named
            `"label_embedding"` whose last row means "no label". An input named `"condition"` may
            follow these.
        diffusion: a `GaussianDiffusion`; None is its default.
        ema_decay: float in [0, 1), decay of the averaged weights.
        label_dropout: float in [0, 1), share of labels replaced by "no label" in training, which
            classifier-free guidance needs (Ho & Salimans 2022).
        condition_dropout: float in [0, 1), share of conditions replaced by zeros in training.
        conditioning: optional `SuperResolution`, `Colouring` or `Inpainting`, which makes the
            conditions from the images, so that training needs images only.
        class_names: optional names of the classes, `num_classes` of them, for `generate`.
        min_snr_gamma: optional float > 0, see `min_snr_weights`. None gives all timesteps the same
            loss weight (Ho et al.).
        timestep_distribution: how often training visits each timestep: `"uniform"` (Ho et al.), or
            `"logit_normal"`, most often the middle ones: t = T · sigmoid(n), n standard normal
            (Esser et al. 2024, eq. 19).
        sampler: optional sampler of the package, its name or a `Sampler`, which `generate` uses
            where none is given, and files keep. None is DDIM.
        seed: optional int, for timesteps, noise and label dropout.
    """

    def __init__(
        self,
        network: keras.Model,
        diffusion: GaussianDiffusion | None = None,
        ema_decay: float = 0.999,
        label_dropout: float = 0.1,
        condition_dropout: float = 0.1,
        conditioning: Conditioning | None = None,
        class_names: Sequence[str] | None = None,
        min_snr_gamma: float | None = None,
        timestep_distribution: Literal["uniform", "logit_normal"] = "uniform",
        sampler: str | Sampler | None = None,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ):
        check_network(network)
        diffusion = GaussianDiffusion() if diffusion is None else diffusion
        check_instance("diffusion", diffusion, GaussianDiffusion)
        seed = None if seed is None else check_int("seed", seed, minimum=0)
        # Keras chooses loss scaling by this policy, which a file keeps: a functional network that
        # is loaded has the global one. The inputs keep their precision.
        super().__init__(dtype=dtype or network.dtype_policy, autocast=False, **kwargs)
        self.network, self.diffusion = network, diffusion
        self.ema_decay = check_number("ema_decay", ema_decay, "[0, 1)")
        self.label_dropout = check_number("label_dropout", label_dropout, "[0, 1)")
        self.condition_dropout = check_number("condition_dropout", condition_dropout, "[0, 1)")
        self.ema_network = copy_network(network)
        self.freeze_average()

        self.sample_shape = tuple(network.inputs[0].shape[1:])
        self.is_image = len(self.sample_shape) == 3
        self.num_classes = None
        last = network.inputs[-1]
        self.condition_shape = tuple(last.shape[1:]) if last.name == "condition" else None
        if len(network.inputs) - (self.condition_shape is not None) == 3:
            self.num_classes = network.get_layer("label_embedding").input_dim - 1
        self.conditioning = conditioning
        if conditioning is not None:
            check_conditioning(conditioning, self.sample_shape, self.condition_shape)
        self.class_names = None
        if class_names is not None:
            self.class_names = list(check_class_names("class_names", class_names))
            if len(self.class_names) != self.num_classes:
                raise ValueError(
                    f"class_names has {len(self.class_names)} names, but the network has "
                    f"{self.num_classes or 'no'} classes."
                )
        self.min_snr_gamma = self._timestep_weights = None
        if min_snr_gamma is not None:
            self._timestep_weights = min_snr_weights(diffusion, min_snr_gamma)
            self.min_snr_gamma = float(min_snr_gamma)

        self.timestep_distribution = check_choice(
            "timestep_distribution", timestep_distribution, ("uniform", "logit_normal")
        )
        self.sampler = None if sampler is None else get_sampler(sampler)
        if self.sampler is not None:
            self.sampler.plan(diffusion)  # may refuse
        self.make_programs()
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.validation_seeds = keras.random.SeedGenerator(VALIDATION_SEED)
        self.updates = self._state("updates", (), "int32")  # of the averaged weights
        # The mean of the training data in each channel, which the samples' tint is compared with.
        self.data_mean = self._state("data_mean", self.sample_shape[-1:])
        self.fault = self._state("fault", (3,))
        self.built = True

    def make_programs(self):
        """Programs of the networks with the weights that they have now."""
        self.layout = self.describe_weights()
        self._run_network = network_function(self.network, training=True)
        self._run_averaged = network_function(self.ema_network, training=False)
        self._sampling_loop = None

    def _state(self, name, shape, dtype="float32"):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False
        )

    def call(self, inputs, training=False):
        """The prediction for `[x_t, t]`, or what else the network takes: of the averaged network,
        or of the trained one with `training=True`."""
        if not isinstance(inputs, list | tuple) or len(inputs) != len(self.network.inputs):
            names = [tensor.name for tensor in self.network.inputs]
            raise TypeError(f"inputs must be {names}. To draw samples use `generate`.")
        return self._run_network(inputs) if training else self._run_averaged(inputs)

    def compile(
        self,
        optimizer: str | keras.Optimizer = "adam",
        loss: str | keras.Loss = "mse",
        jit_compile: bool | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`; the loss compares the network's output with its target."""
        check_batches([])
        self.check_weights()
        check_compile_options(optimizer, loss, jit_compile, **kwargs)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)
        self.requested_jit_compile = jit_compile
        # Keras would build these with the first batch, by calling the model on raw images.
        example = ops.zeros((1, *self.sample_shape))
        self.compute_loss(y=example, y_pred=example)
        self.compute_metrics(None, example, example)
        self.reset_metrics()
        self.build_optimizer()

    def fit(
        self,
        x: Any = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`. `y`, if there is one, holds labels.

        A PyDataset is served in its own order: `shuffle` is False for it unless given.

        Raises:
            ValueError: for pixels outside [-1, 1] or NaN, labels out of range, or batches that do
                not divide among several devices.
            FloatingPointError: once the loss, the gradients or a weight are no longer finite. The
                message says whether the weights are those before that step.
            MemoryError: when memory runs out in training.
        """
        self.check_compiled()
        check_fit_options(epochs=epochs, batch_size=batch_size, y=y, **kwargs)
        self.check_arrays(x, y, kwargs.get("sample_weight"))
        batch_size = batch_size and int(batch_size)
        self.fault.assign(ops.zeros((3,)))
        callbacks = [faults.StopOnFault(), *keras.tree.flatten(callbacks or [])]
        if isinstance(x, keras.utils.PyDataset):
            kwargs.setdefault("shuffle", False)
        sizes = batch_sizes(x, batch_size)
        check_batches(sizes)
        if (data := kwargs.get("validation_data")) is not None:
            data = keras.utils.unpack_x_y_sample_weight(data)
            self.check_arrays(*data)
            check_batches(batch_sizes(data[0], kwargs.get("validation_batch_size") or batch_size))
        try:
            return super().fit(
                x, y, batch_size, epochs, verbose=verbose, callbacks=callbacks, **kwargs
            )
        except Exception as error:
            faults.raise_memory_error(error, sizes)
            raise

    def train_on_batch(self, x, y=None, sample_weight=None, *args, **kwargs):
        """As `keras.Model.train_on_batch`, with the errors of `fit`."""
        self.check_compiled()
        self.check_arrays(x, y, sample_weight)
        self.fault.assign(ops.zeros((3,)))
        result = super().train_on_batch(x, y, sample_weight, *args, **kwargs)
        faults.raise_fault(self, "in this batch")
        return result

    def test_on_batch(self, x, y=None, sample_weight=None, *args, **kwargs):
        """As `keras.Model.test_on_batch`, with the errors of `evaluate`."""
        self.check_layout()
        self.check_arrays(x, y, sample_weight)
        self.fault.assign(ops.zeros((3,)))
        result = super().test_on_batch(x, y, sample_weight, *args, **kwargs)
        faults.raise_fault(self, "in this batch")
        return result

    def evaluate(
        self,
        x: Any = None,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `keras.Model.evaluate`: the loss of the averaged weights, with the same noise each
        time."""
        self.check_layout()
        if not self.compiled:
            raise ValueError("`evaluate` needs a loss: call `compile` before.")
        check_fit_options(batch_size=batch_size, y=y, **kwargs)
        self.check_arrays(x, y, kwargs.get("sample_weight"))
        batch_size = batch_size and int(batch_size)
        check_batches(batch_sizes(x, batch_size))
        faults.raise_fault(self, "in training")  # of the epoch that this validation ends
        state = self.validation_seeds.state
        state.assign(ops.cast([VALIDATION_SEED, 0], state.dtype))
        result = super().evaluate(x, y, batch_size, *args, **kwargs)
        faults.raise_fault(self, "in the evaluation data")
        return result
