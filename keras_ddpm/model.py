"""`DiffusionModel`: a network, a diffusion process and an averaged copy, as a `keras.Model`."""

import gc

import keras
from keras import ops

from keras_ddpm import faults
from keras_ddpm.backend import TrainStep, arrange_moments, move_averages, network_function
from keras_ddpm.batches import (
    batch_sizes,
    check_label_names,
    stratified_timesteps,
    to_float,
    to_labels,
)
from keras_ddpm.devices import check_batches, check_distribution, count
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.export import Export
from keras_ddpm.generation import Generation
from keras_ddpm.memory import batch_size_advice, is_out_of_memory
from keras_ddpm.remat import rematerialised
from keras_ddpm.saving import Saving
from keras_ddpm.validation import check_fraction, check_weight_dtypes
from keras_ddpm.weighting import min_snr_weights

VALIDATION_SEED = 2020  # any fixed number: each evaluation then sees the same noise


@keras.saving.register_keras_serializable("keras_ddpm")
class DiffusionModel(TrainStep, Generation, Saving, Export, keras.Model):
    """Trains a denoiser with `fit` and samples from its averaged weights with `generate`.

    `fit` and `evaluate` take images, or (images, labels), from NumPy, tf.data, a PyDataset or a
    torch DataLoader: uint8, or float in [-1, 1], `(batch, height, width, channels)`.

    Args:
        network: functional `keras.Model` called as `network([x_t, t])`, or
            `network([x_t, t, label])` with an Embedding layer named `"label_embedding"` whose
            last row means "no label". `build_unet` makes such networks.
        diffusion: a `GaussianDiffusion`; None is its default.
        ema_decay: float in [0, 1), decay of the averaged weights.
        label_dropout: float in [0, 1), share of labels replaced by "no label" in training, which
            is what classifier-free guidance needs (Ho & Salimans 2022).
        label_names: optional names of the classes, `num_classes` of them, for `generate`.
        min_snr_gamma: optional float > 0, weights the loss of each timestep by min-SNR-γ (Hang
            et al. 2023), see `min_snr_weights`. None weights all alike (Ho et al.).
        remat: bool, whether the blocks of the network compute what is inside them twice, instead of
            keeping it until the gradient needs it: less memory, more time, see `rematerialised`.
        seed: optional int, for timesteps, noise and label dropout.

    Example:

    ```python
    network = build_unet(image_size=64)
    model = DiffusionModel(network, GaussianDiffusion())
    model.compile(optimizer=keras.optimizers.Adam(2e-4), loss="mse")
    model.fit(images, batch_size=32, epochs=10)
    samples = model.generate(16, sampler="ddim", steps=50, seed=0)
    ```
    """

    def __init__(
        self,
        network,
        diffusion=None,
        ema_decay=0.999,
        label_dropout=0.1,
        label_names=None,
        min_snr_gamma=None,
        remat=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(getattr(network, "inputs", None) or ()) not in (2, 3):
            raise ValueError(
                f"network={network!r} must be a functional keras.Model with the inputs [x_t, t] or "
                "[x_t, t, label], such as `build_unet` makes."
            )
        self.network = network
        self.diffusion = GaussianDiffusion() if diffusion is None else diffusion
        self.ema_decay = check_fraction("ema_decay", ema_decay)
        self.label_dropout = check_fraction("label_dropout", label_dropout)
        self.ema_network = keras.models.clone_model(network)
        self.ema_network.set_weights(network.get_weights())
        self.ema_network.trainable = False

        self.sample_shape = tuple(network.inputs[0].shape[1:])
        self.is_image = len(self.sample_shape) == 3
        self.num_classes = None
        if len(network.inputs) == 3:
            self.num_classes = network.get_layer("label_embedding").input_dim - 1
        self.label_names = check_label_names(label_names, self.num_classes)
        self.min_snr_gamma = min_snr_gamma
        self._timestep_weights = None
        if min_snr_gamma is not None:
            self._timestep_weights = min_snr_weights(self.diffusion, min_snr_gamma)

        self.remat = remat
        run = rematerialised(network) if remat else network_function(network, training=True)
        self.run_network = run
        self.run_averaged = network_function(self.ema_network, training=False)

        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.validation_seeds = keras.random.SeedGenerator(VALIDATION_SEED)
        # Mean of the training data in each channel: what the samples' tint is measured against.
        self.data_mean = self._state("data_mean", self.sample_shape[-1:])
        self.fault = self._state("fault", (3,))
        self.built = True

    def _state(self, name, shape):
        return self.add_weight(
            name=name, shape=shape, dtype="float32", initializer="zeros", trainable=False
        )

    def call(self, inputs, training=False):
        """What the averaged network says of `[x_t, t]` or `[x_t, t, label]`."""
        return self.ema_network(inputs, training=False)

    # ---- training: everything but differentiation ------------------------------------------

    def prepare_batch(self, data, validation=False):
        """One batch, ready for the loss: data, timesteps, noise and labels.

        Args:
            data: what `fit` hands over: x, (x, labels) or (x, labels, sample_weight).
            validation: bool. Then the timesteps are spread evenly, and no label is dropped.

        Returns:
            A dict of tensors: `x_start`, `t`, `noise`, `sample_weight` and `fault`; with classes
            `label` as well.
        """
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x_start = to_float(x, self.sample_shape)
        fault = faults.examine_pixels(x_start, self.is_image)
        t, noise, is_dropped = self.draw(ops.shape(x_start), validation)
        if self._timestep_weights is not None:
            by_time = ops.take(ops.convert_to_tensor(self._timestep_weights, "float32"), t)
            sample_weight = by_time if sample_weight is None else by_time * sample_weight
        batch = {"x_start": x_start, "t": t, "noise": noise, "sample_weight": sample_weight}
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(
                    "labels were given to an unconditional network. Build it with num_classes, "
                    "or leave the labels out: `dataset.map(lambda x, y: x)`."
                )
            return {**batch, "fault": fault}
        labels = to_labels(labels, self.num_classes)
        fault = faults.first_fault(fault, faults.examine_labels(labels, self.num_classes))
        # The extra label "no label" is also what a wrong one becomes, until the fault is raised.
        is_wrong = ops.logical_or(labels < 0, labels >= self.num_classes)
        no_label = ops.logical_or(is_dropped, is_wrong)
        return {**batch, "fault": fault, "label": ops.where(no_label, self.num_classes, labels)}

    def draw(self, shape, validation=False):
        """The random numbers of a batch of `shape`.

        Returns:
            Timesteps `(batch,)` int32, noise of `shape`, and bools `(batch,)`: whose label to drop.
        """
        total = self.diffusion.timesteps
        if validation:
            seeds = self.validation_seeds  # reset by `evaluate`: always the same noise
            t = stratified_timesteps(shape[0], total, keras.random.uniform((), seed=seeds))
            is_dropped = ops.zeros(shape[:1], "bool")
        else:
            seeds = self.seed_generator
            t = keras.random.randint(shape[:1], 0, total, dtype="int32", seed=seeds)
            is_dropped = keras.random.uniform(shape[:1], seed=seeds) < self.label_dropout
        return t, keras.random.normal(shape, dtype="float32", seed=seeds), is_dropped

    def denoising_loss(self, run, batch, training):
        """The simplified objective E ‖ϵ − ϵ_θ(√ᾱ_t x₀ + √(1 − ᾱ_t) ϵ, t)‖², eq. 14.

        ϵ is replaced by x₀ or v if the diffusion's `prediction` says so, and the squared error by
        the compiled loss.

        Args:
            run: `run_network` or `run_averaged`, how the network is run for this.
            batch: what `prepare_batch` made.
            training: bool, for losses that ask.

        Returns:
            The scalar loss, the target and the network's output.
        """
        x_start, t, noise = batch["x_start"], batch["t"], batch["noise"]
        x_t = self.diffusion.q_sample(x_start, t, noise)
        inputs = [x_t, t] + ([batch["label"]] if "label" in batch else [])
        self._clear_losses()  # those that layers added in the step before, as Keras' calls do
        output = run(inputs)
        target = self.diffusion.target(x_start, t, noise)
        weight = batch["sample_weight"]
        if weight is not None:  # one weight an image, for losses of one value a pixel
            weight = ops.reshape(weight, (-1,) + (1,) * (len(x_start.shape) - 2))
        loss = self.compute_loss(
            x=x_t, y=target, y_pred=output, sample_weight=weight, training=training
        )
        return loss, target, output

    def examine(self, batch, loss, gradients=()):
        """Records the first fault there is; says whether the step may change the weights."""
        may_overflow = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        step = faults.examine_step(loss, gradients, may_overflow)
        self.fault.assign(faults.first_fault(self.fault.value, batch["fault"], step))
        return ops.equal(self.fault[0], faults.HEALTHY)

    def apply_gradients(self, gradients, batch):
        """One optimiser step, then the averages follow: of the weights, and of the data.

        ema ← ema + (1 − decay) (weights − ema). The decay of update n is at most
        (1 + n) / (10 + n), so that the average forgets the random initial weights quickly.
        """
        before = ops.cast(self.optimizer.iterations, "float32")
        self.step_optimizer(gradients)
        n = ops.cast(self.optimizer.iterations, "float32")
        decay = ops.minimum(self.ema_decay, (1 + n) / (10 + n))
        # Gradient accumulation and loss scaling skip updates: then the average waits, too.
        rate = ops.where(n > before, 1 - decay, 0.0)
        move_averages(self.ema_network.weights, self.network.weights, rate)
        batch_mean = ops.mean(batch["x_start"], axis=tuple(range(len(self.sample_shape))))
        rate = ops.maximum(1 / ops.maximum(n, 1.0), 0.001)
        self.data_mean.assign_add(rate * (batch_mean - self.data_mean))

    def update_metrics(self, batch, loss, target, output):
        """Brings the logs up to date: the loss, and compiled metrics of target and output."""
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss, sample_weight=ops.shape(target)[0])
        return self.compute_metrics(batch["x_start"], target, output, batch["sample_weight"])

    # ---- the Keras road: compile, fit, evaluate ---------------------------------------------

    def compile(self, optimizer="adam", loss="mse", jit_compile="auto", **kwargs):
        """As `keras.Model.compile`; the loss compares the network's output with its target.

        Raises:
            ValueError: if the weights have less than 32 bits, or under a distribution of Keras
                that this backend does not follow.
        """
        check_distribution()
        check_weight_dtypes(self.network)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile, **kwargs)
        self._asked_jit_compile = jit_compile
        # Keras would build these on the first batch, by calling the model on raw images.
        example = ops.zeros((1, *self.sample_shape))
        self.compute_loss(y=example, y_pred=example)
        self.compute_metrics(None, example, example)
        self.reset_metrics()
        self.optimizer.build(self.network.trainable_variables)
        arrange_moments(self.optimizer, self.network.trainable_variables)

    def fit(
        self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs
    ):
        """As `keras.Model.fit`. `y`, if there is one, holds labels.

        A PyDataset is served in its own order: `shuffle` is False for it unless given.

        Raises:
            ValueError: for pixels outside [-1, 1] or NaN, labels out of range, or batches that do
                not divide among several devices.
            FloatingPointError: once the loss or the gradients are no longer finite. The weights
                are then those before that step.
            MemoryError: when memory runs out. It names a batch size that fits.
        """
        self.fault.assign(ops.zeros((3,)))
        callbacks = [faults.StopOnFault(), *keras.tree.flatten(callbacks or [])]
        if isinstance(x, keras.utils.PyDataset):
            kwargs.setdefault("shuffle", False)
        if kwargs.get("sample_weight") is not None and y is None:
            raise ValueError(
                "sample_weight was given without y (labels): Keras would drop it. Pass a dataset "
                "whose batches are (x, labels, sample_weight)."
            )
        sizes = self._check_batches(x, batch_size)
        if (data := kwargs.get("validation_data")) is not None:
            data = data[0] if isinstance(data, (tuple, list)) else data
            self._check_batches(data, kwargs.get("validation_batch_size") or batch_size)
        try:
            return super().fit(
                x, y, batch_size, epochs, verbose=verbose, callbacks=callbacks, **kwargs
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).strip() or repr(error)).splitlines()[0]
        gc.collect()
        raise MemoryError(batch_size_advice(self, sizes[0] if sizes else None, reason))

    def _check_batches(self, x, batch_size):
        """Refuses batches that several devices cannot share; returns the sizes that are known."""
        sizes = batch_sizes(x, batch_size)
        check_batches(sizes, count(self.network.weights))
        return sizes

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch`, with the errors of `fit`."""
        self.fault.assign(ops.zeros((3,)))
        result = super().train_on_batch(*args, **kwargs)
        faults.raise_fault(self, "in this batch")
        return result

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """As `keras.Model.evaluate`: the averaged weights' loss, with the same noise each time."""
        self._check_batches(x, batch_size)
        faults.raise_fault(self, "in training")  # of the epoch that this validation ends
        state = self.validation_seeds.state
        state.assign(ops.cast([VALIDATION_SEED, 0], state.dtype))
        result = super().evaluate(x, y, batch_size, *args, **kwargs)
        faults.raise_fault(self, "in the evaluation data")
        return result
