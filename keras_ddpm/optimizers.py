"""Adam with one kernel for each weight."""

import numbers
from typing import Any

import keras
from keras import ops

from keras_ddpm.backend import adam_numbers, adam_step
from keras_ddpm.validation import check_bool, check_number


@keras.saving.register_keras_serializable("keras_ddpm")
class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam`, with fewer operations for each weight.

    The step is that of Keras up to rounding. TensorFlow builds a smaller graph, so the first step
    of a large network starts sooner. `keras.optimizers.Adam` does as well for training.

    Args:
        learning_rate, beta_1, beta_2, epsilon, **kwargs: as for `keras.optimizers.Adam`; `amsgrad`
            is not supported.

    ```python
    model.compile(optimizer=FusedAdam(2e-4))
    ```
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ):
        if check_bool("amsgrad", amsgrad):
            raise ValueError("amsgrad=True is not supported; use keras.optimizers.Adam.")
        if isinstance(learning_rate, numbers.Number):  # and not a schedule
            learning_rate = check_number("learning_rate", learning_rate, "[0, inf)")
        super().__init__(
            learning_rate,
            check_number("beta_1", beta_1, "[0, 1)"),
            check_number("beta_2", beta_2, "[0, 1)"),
            check_number("epsilon", epsilon, "[0, inf)"),
            **kwargs,
        )

    def build(self, variables):
        if self.built:
            return
        super(keras.optimizers.Adam, self).build(variables)  # not the moments of Keras' Adam
        self.moments = {}
        for variable in variables:
            moments = [
                self.add_variable_from_reference(variable, name=name)
                for name in ("momentum", "velocity")
            ]
            self.moments[id(variable)] = moments
            if keras.backend.backend() == "tensorflow":  # which passes its own to `update_step`
                self.moments[id(variable.value)] = moments

    def apply(self, grads, trainable_variables=None):
        # Kingma & Ba (2015), end of section 2: corrects moments that begin at zero.
        n = ops.cast(self.iterations + 1, "float32")
        correction = ops.sqrt(1 - ops.power(self.beta_2, n)) / (1 - ops.power(self.beta_1, n))
        step_size = correction * ops.cast(self.learning_rate, "float32")
        # Computed once for all weights: the size of TensorFlow's graph counts.
        self.numbers = adam_numbers(step_size, self.beta_1, self.beta_2, self.epsilon)
        super().apply(grads, trainable_variables)
        self.numbers = None

    def update_step(self, gradient, variable, learning_rate):
        momentum, velocity = self.moments[id(variable)]
        adam_step(variable, momentum, velocity, gradient, *self.numbers)

    def __repr__(self):
        options = self.get_config()
        names = ("learning_rate", "beta_1", "beta_2", "epsilon", "global_clipnorm")
        return f"FusedAdam({', '.join(f'{name}={options[name]!r}' for name in names)})"
