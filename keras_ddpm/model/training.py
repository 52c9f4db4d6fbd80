"""What a training step computes, except for the gradients: those are in `backend/`."""

import keras
from keras import ops

from keras_ddpm.backend import lerp
from keras_ddpm.model import faults
from keras_ddpm.model.batches import (
    check_arrays,
    check_label_array,
    check_label_tensor,
    data_to_float,
    split_batch,
    stratified_timesteps,
    weights_to_float,
)


class Training:
    """The part of a `DiffusionModel` between a batch and its loss, and after the gradients."""

    def check_arrays(self, x, y=None, sample_weight=None):
        """Refuses wrong arguments of `fit` and `evaluate`."""
        check_arrays(x, y, sample_weight, self.num_classes, self.condition_shape)

    def check_batch(self, data):
        """What only the host can check: JAX cuts integers of 64 bits to 32."""
        check_label_array(split_batch(data)[2], self.num_classes)

    def prepare_batch(self, data, validation=False):
        """One batch, x, (x, labels) or (x, labels, sample_weight), ready for the loss: a dict with
        `x_start`, `t`, `noise`, `sample_weight`, `fault`, and where there are, `label` and
        `condition`. x may be a dict: see `split_batch`.
        """
        x, condition, labels, sample_weight = split_batch(data)
        x_start = data_to_float(x, self.sample_shape)
        were_bytes = keras.backend.standardize_dtype(x.dtype) == "uint8"
        fault = faults.examine_pixels(x_start, self.is_image, were_bytes)
        t, noise, is_dropped = self.draw(ops.shape(x_start), validation)
        if sample_weight is not None:
            sample_weight = weights_to_float(sample_weight)
            fault = faults.first_fault(fault, faults.examine_weights(sample_weight))
        if self._timestep_weights is not None:
            by_time = ops.take(ops.convert_to_tensor(self._timestep_weights, "float32"), t)
            sample_weight = by_time * (1.0 if sample_weight is None else sample_weight)
        batch = {"x_start": x_start, "t": t, "noise": noise, "sample_weight": sample_weight}
        if self.condition_shape is not None:
            batch["condition"] = self.prepare_condition(condition, x_start, validation)
            fault = faults.first_fault(fault, faults.examine_condition(batch["condition"]))
        if self.num_classes is None:
            if labels is not None:
                raise ValueError(
                    "labels were given to an unconditional network. Build it with num_classes, "
                    "or leave the labels out: `dataset.map(lambda x, y: x)`."
                )
            return {**batch, "fault": fault}
        labels = check_label_tensor(labels, self.num_classes)
        fault = faults.first_fault(fault, faults.examine_labels(labels, self.num_classes))
        # A wrong label counts as "no label" until the fault is raised.
        is_wrong = ops.logical_or(labels < 0, labels >= self.num_classes)
        no_label = ops.logical_or(is_dropped, is_wrong)
        labels = ops.where(no_label, self.num_classes, ops.cast(labels, "int32"))
        return {**batch, "fault": fault, "label": labels}

    def prepare_condition(self, condition, x_start, validation):
        """The conditions given, or those made of the images, some of which are dropped."""
        seeds = self.validation_seeds if validation else self.seed_generator
        if condition is not None:
            options = "image_size and condition_channels"
            condition = data_to_float(condition, self.condition_shape, "condition", options)
        elif self.conditioning is not None:
            condition = self.conditioning.draw(x_start, seeds)
        else:
            raise ValueError(
                "the network takes a condition, but the data have none. Give dicts "
                "{'images': images, 'condition': condition}, or make the model with conditioning."
            )
        if validation:
            return condition
        shape = (ops.shape(x_start)[0],) + (1,) * len(self.condition_shape)
        uniform = keras.random.uniform(shape, dtype="float32", seed=seeds)
        return ops.where(uniform < self.condition_dropout, 0.0, condition)

    def draw(self, shape, validation=False):
        """Timesteps `(batch,)` int32, noise of `shape`, and bools `(batch,)`: whose label to drop.

        In validation the timesteps are spread evenly, and no label is dropped.
        """
        total = self.diffusion.timesteps
        if validation:
            seeds = self.validation_seeds  # `evaluate` resets them
            offset = keras.random.uniform((), dtype="float32", seed=seeds)
            t = stratified_timesteps(shape[0], total, offset)
            is_dropped = ops.zeros(shape[:1], "bool")
        else:
            seeds = self.seed_generator
            t = self.draw_timesteps(shape[:1])
            uniform = keras.random.uniform(shape[:1], dtype="float32", seed=seeds)
            is_dropped = uniform < self.label_dropout
        return t, keras.random.normal(shape, dtype="float32", seed=seeds), is_dropped

    def draw_timesteps(self, shape):
        total, seeds = self.diffusion.timesteps, self.seed_generator
        if self.timestep_distribution == "uniform":
            return keras.random.randint(shape, 0, total, dtype="int32", seed=seeds)
        s = ops.sigmoid(keras.random.normal(shape, dtype="float32", seed=seeds))
        return ops.cast(ops.minimum(s * total, total - 1), "int32")

    def denoising_loss(self, batch, training):
        """The simplified objective E ‖ϵ − ϵ_θ(√ᾱ_t x₀ + √(1 − ᾱ_t) ϵ, t)‖², eq. 14.

        x₀ or v takes the place of ϵ if the diffusion's `prediction` says so, and the compiled loss
        that of the squared error. With `training` the trained network is run, else the averaged
        one. Returns the scalar loss, the target and the network's output.
        """
        x_start, t, noise = batch["x_start"], batch["t"], batch["noise"]
        x_t = self.diffusion.q_sample(x_start, t, noise)
        others = [batch[name] for name in ("label", "condition") if name in batch]
        output = self([x_t, t, *others], training=training)
        target = self.diffusion.target(x_start, t, noise)
        weight = batch["sample_weight"]
        if weight is not None:  # one weight an image, for losses of one value a pixel
            weight = ops.reshape(weight, (-1,) + (1,) * (len(x_start.shape) - 2))
        return self.compute_loss(x_t, target, output, weight, training), target, output

    def examine(self, batch, loss, gradients=()):
        """Records the first fault there is; returns whether the step may change the weights."""
        may_overflow = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        step = faults.examine_step(loss, gradients, may_overflow)
        self.fault.assign(faults.first_fault(self.fault.value, batch["fault"], step))
        return faults.is_healthy(self.fault)

    def apply_gradients(self, gradients, batch):
        """One optimizer step, then one update of the averages: of the weights and of the data.

        ema ← ema + (1 − decay) (weights − ema). The decay of update n is at most
        1 − (1 + n)^(−3/4), as in k-diffusion, so that the average soon forgets the random initial
        weights. The model counts and saves the updates itself: `compile` makes a new optimizer.
        """
        before = ops.copy(self.optimizer.iterations)
        self.step_optimizer(gradients)
        # Gradient accumulation and loss scaling skip updates, and then this does as well.
        is_update = self.optimizer.iterations > before
        self.updates.assign_add(ops.cast(is_update, "int32"))
        n = ops.cast(self.updates, "float32")
        decay = ops.minimum(self.ema_decay, 1 - ops.power(1 + n, -0.75))
        rate = ops.where(is_update, 1 - decay, 0.0)
        for average, weight in zip(self.ema_network.weights, self.network.weights):
            lerp(average, weight, rate)
        batch_mean = ops.mean(batch["x_start"], axis=tuple(range(len(self.sample_shape))))
        rate = ops.where(is_update, ops.maximum(1 / ops.maximum(n, 1.0), 0.001), 0.0)
        self.data_mean.assign_add(rate * (batch_mean - self.data_mean))

    def update_metrics(self, batch, loss, target, output):
        """Updates the logs: the loss, and compiled metrics of target and output."""
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss, sample_weight=ops.shape(target)[0])
        return self.compute_metrics(batch["x_start"], target, output, batch["sample_weight"])
