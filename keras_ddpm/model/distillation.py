"""Distillation: a model that draws in a few steps what another one draws in many.

Moment matching of Salimans et al. (2024), "Multistep distillation of diffusion models via moment
matching", algorithm 2. A step from x_t to x_s predicts x̃ = g(x_t), and draws x_s from the posterior
q(x_s | x_t, x̃), as `DDPM` does. If such x_s are distributed as those of the data, then
E[x̃ | x_s] = E[x₀ | x_s] for all of them. The teacher D predicts the second mean, and a critic c,
which is trained beside the student g, the first:

    c minimises  w ‖c(x_s) − x̃‖² + w ‖c(x_s) − D(x_s)‖²     with x̃ held constant
    g minimises  w x̃ᵀ (c(x_s) − D(x_s))                     with the bracket held constant

w is the signal-to-noise ratio ᾱ_s / (1 − ᾱ_s), between 1 and 5.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import network_function
from keras_ddpm.model.model import DiffusionModel
from keras_ddpm.model.saving import copy_network
from keras_ddpm.samplers import DDPM, sampler_config
from keras_ddpm.validation import check_instance, check_int


def distill(model: DiffusionModel, steps: int = 4, **options: Any) -> MomentMatching:
    """A student of a trained model, that learns to draw in `steps` steps.

    Args:
        model: a trained `DiffusionModel` whose network predicts v or x₀.
        steps: int in [1, diffusion.timesteps], evaluations of the network for a sample.
        **options: other values than the model's for `DiffusionModel`'s `ema_decay`,
            `label_dropout`, `timestep_distribution` and `seed`.

    Returns:
        A `MomentMatching`, not compiled. Train it on the images that the model was trained on.

    ```python
    student = distill(DiffusionModel.from_preset("drawn_flowers_16"), steps=4)
    student.compile(FusedAdam(1e-4, beta_1=0.0, global_clipnorm=1.0))
    student.fit(ImageDataset(load_images("drawn_flowers", image_size=16, num_images=64)))
    student.distilled().save_to_preset("four_steps")  # whose `generate` takes four steps
    ```
    """
    check_instance("model", model, DiffusionModel)
    if int(ops.convert_to_numpy(model.updates)) == 0:
        raise ValueError("model was not trained: `fit` it, or load a preset, before `distill`.")
    config = {k: v for k, v in model.get_config().items() if k not in ("sampler", "frozen")}
    student = MomentMatching.from_config({**config, **options, "steps": steps})
    weights = model.ema_network.get_weights()
    for network in (student.network, student.ema_network, student.teacher, student.critic):
        network.set_weights(weights)
    student.data_mean.assign(model.data_mean)
    return student


@keras.saving.register_keras_serializable("keras_ddpm")
class MomentMatching(DiffusionModel):
    """A student, its teacher and a critic; make it with `distill`, then `compile` and `fit`.

    Batches, metrics, checkpoints and `generate` are those of a `DiffusionModel`. The optimizer
    trains student and critic; Salimans et al. use Adam with `beta_1=0`. A step takes a little more
    than twice the time of one of `DiffusionModel`. The loss does not say how good samples are.

    Args:
        network, diffusion, **kwargs: as for `DiffusionModel`.
        steps: int, the steps of its sampler, `DDPM(steps)`.
    """

    def __init__(self, network: keras.Model, diffusion=None, steps: int = 4, **kwargs: Any):
        super().__init__(network, diffusion, **kwargs)
        if self.diffusion.prediction == "noise":
            raise ValueError(
                "a network that predicts the noise cannot be distilled: its x̂₀ is divided by √ᾱ_t, "
                "almost 0 at the first step. Train a model with prediction='velocity'."
            )
        self.steps = check_int("steps", steps, maximum=self.diffusion.timesteps)
        self.sampler = DDPM(self.steps)
        # Each a copy of the one before: while a file is loaded, Keras takes what it saw
        # twice for layers that are shared.
        self.teacher = copy_network(self.ema_network)
        self.critic = copy_network(self.teacher)
        self.critic.trainable = True
        self.freeze_average()
        self._run_teacher = network_function(self.teacher, training=False)
        self._run_critic = network_function(self.critic, training=True)

    def trained_networks(self):
        return [self.network, self.critic]

    def freeze_average(self):
        super().freeze_average()
        if hasattr(self, "teacher"):
            self.teacher.trainable = False

    def denoising_loss(self, batch, training):
        """Both losses as squared errors, which have the gradients above.

        The student's target is x̃ − (c − D)/2, the critic's is (x̃ + D)/2, both held constant.
        """
        seeds = self.seed_generator if training else self.validation_seeds
        s, x_start, total = batch["t"], batch["x_start"], self.diffusion.timesteps
        longest = math.ceil(total / self.steps)
        step = keras.random.randint(ops.shape(s), 1, longest + 1, dtype="int32", seed=seeds)
        t = ops.minimum(s + step, total - 1)
        noise = keras.random.normal(ops.shape(x_start), dtype="float32", seed=seeds)
        x_t = self.diffusion.q_sample(x_start, t, noise)
        student = self._run_network if training else self._run_averaged
        start = self.predict_start(student, x_t, t, batch)
        x_s = ops.stop_gradient(self.draw_next(start, x_t, t, s, batch["noise"]))
        critic = self.predict_start(self._run_critic, x_s, s, batch)
        teacher = self.predict_start(self._run_teacher, x_s, s, batch)
        student_target = start - (critic - teacher) / 2
        critic_target = (start + teacher) / 2
        target = ops.stop_gradient(ops.concatenate([student_target, critic_target]))
        output = ops.concatenate([start, critic])
        signal = self.diffusion.alphas_cumprod
        weight = ops.squeeze(self.at(np.clip(signal / (1 - signal), 1, 5), s, x_start), -1)  # w
        if batch["sample_weight"] is not None:
            weight = weight * ops.reshape(batch["sample_weight"], ops.shape(weight))
        weight = ops.concatenate([weight, weight])
        return self.compute_loss(x_t, target, output, weight, training), target, output

    def predict_start(self, network, x_t, t, batch):
        """x̂₀ of one of the networks."""
        others = [batch[name] for name in ("label", "condition") if name in batch]
        return self.diffusion.predict_start(x_t, t, network([x_t, t, *others]))

    def draw_next(self, start, x_t, t, s, noise):
        """x_s from q(x_s | x_t, x̂₀), Ho et al. (2020), eq. 7, for any s ≤ t."""
        with np.errstate(divide="ignore"):  # ᾱ_T may be 0
            log_signal = np.log(self.diffusion.alphas_cumprod)
        log_signal_s = self.at(log_signal, s, x_t)
        beta = -ops.expm1(self.at(log_signal, t, x_t) - log_signal_s)  # 1 − ᾱ_t/ᾱ_s
        sigma_s = self.at(self.diffusion.sqrt_one_minus_alphas_cumprod, s, x_t)
        sigma_t = self.at(self.diffusion.sqrt_one_minus_alphas_cumprod, t, x_t)
        mean = beta * ops.exp(log_signal_s / 2) * start + ops.sqrt(1 - beta) * sigma_s**2 * x_t
        return mean / sigma_t**2 + ops.sqrt(beta) * sigma_s / sigma_t * noise

    def at(self, table, t, x):
        """Entries t of a table, in the shape that multiplies x."""
        values = ops.take(ops.convert_to_tensor(table, "float32"), t)
        return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))

    def distilled(self) -> DiffusionModel:
        """The averaged student as a `DiffusionModel`, whose `generate` takes `steps` steps."""
        config = {k: v for k, v in self.get_config().items() if k != "steps"}
        model = DiffusionModel.from_config({**config, "sampler": sampler_config(self.sampler)})
        for network in (model.network, model.ema_network):
            network.set_weights(self.ema_network.get_weights())
        model.data_mean.assign(self.data_mean)
        model.updates.assign(self.updates)
        return model

    def get_config(self) -> dict[str, Any]:
        config = {key: value for key, value in super().get_config().items() if key != "sampler"}
        return {**config, "steps": self.steps}
