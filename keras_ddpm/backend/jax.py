"""JAX: pure functions. The state comes in as arrays and goes out as arrays.

A `StatelessScope` lends the model those arrays for as long as it lasts: reads and writes of
Keras variables inside it go to the arrays, so that model code is the same on every backend.
"""

import os

import jax
import jaxlib
from keras import StatelessScope

# On CPUs these versions hand convolutions to YNNPACK, where a training step takes half as long
# again or longer (docs/speed.md). XLA reads the variable once, when something is first computed,
# and ends the process at a flag that it does not know: so only where the flag was seen to work.
CONVOLUTIONS_IN_YNNPACK = (0, 8, 2) <= jaxlib.version.__version_info__[:3] < (0, 13)
XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
if CONVOLUTIONS_IN_YNNPACK and "ynn_fusion_type" not in XLA_FLAGS:
    flag = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {flag}".strip()


class TrainStep:
    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state

        def loss_function(trainable):
            values = (trainable, non_trainable, optimizer, metrics)
            with StatelessScope(self._bind(*values), collect_losses=True) as scope:
                batch = self.prepare_batch(data)
                loss, target, output = self.denoising_loss(self.run_network, batch, training=True)
                scaled_loss = self.optimizer.scale_loss(loss)
            _, drawn, _, _ = self._collect(scope)  # seeds have moved on
            return scaled_loss, (batch, loss, target, output, drawn)

        gradient_function = jax.value_and_grad(loss_function, has_aux=True)
        (_, (batch, loss, target, output, drawn)), gradients = gradient_function(trainable)

        with StatelessScope(self._bind(trainable, drawn, optimizer, metrics)) as scope:
            healthy = self.examine(batch, loss, gradients)
            logs = self.update_metrics(batch, loss, target, output)

        def move(state):
            with StatelessScope(self._bind(*state)) as scope:
                self.apply_gradients(gradients, batch)
            return self._collect(scope)

        # A branch, not `where`: that would read and write all weights and moments once more.
        keep = jax.lax.cond(healthy, move, lambda state: state, self._collect(scope))
        return logs, keep

    def step_optimizer(self, gradients):
        """Loss scaling branches, and a branch may not assign on JAX: so values in, values out."""
        weights, state = self.network.trainable_variables, self.optimizer.variables
        new_weights, new_state = self.optimizer.stateless_apply(
            [v.value for v in state], gradients, [v.value for v in weights]
        )
        for variable, value in zip([*weights, *state], [*new_weights, *new_state]):
            variable.assign(value)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        values = (trainable, non_trainable, (), metrics)
        with StatelessScope(self._bind(*values), collect_losses=True) as scope:
            batch = self.prepare_batch(data, validation=True)
            loss, target, output = self.denoising_loss(self.run_averaged, batch, training=False)
            self.examine(batch, loss)
            logs = self.update_metrics(batch, loss, target, output)
        trainable, non_trainable, _, metrics = self._collect(scope)
        return logs, (trainable, non_trainable, metrics)

    def _purge_model_variables(self, **kwargs):
        """Keras empties the variables before a step; an error in tracing would lose them all.

        Keeping them costs no memory: the step takes over their buffers.
        """

    def _groups(self):
        return (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables if self.optimizer else [],
            self.metrics_variables,
        )

    def _bind(self, *values):
        """Pairs each variable with the array that stands for it."""
        return [
            pair for group, arrays in zip(self._groups(), values) for pair in zip(group, arrays)
        ]

    def _collect(self, scope):
        """The arrays that the variables have become inside `scope`."""
        return tuple([scope.get_current_value(v) for v in group] for group in self._groups())


def compile_function(function, variables, jit_compile):
    """Compiles `function` with the variables' values as arguments, not baked in as constants."""

    @jax.jit
    def compiled(values, *args):
        with StatelessScope(list(zip(variables, values))):
            return function(*args)

    return lambda *args: compiled([v.value for v in variables], *args)
