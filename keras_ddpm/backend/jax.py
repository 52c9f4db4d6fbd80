"""JAX: pure functions. The state comes in as arrays and goes out as arrays.

A `StatelessScope` lends the model those arrays for as long as it lasts: reads and writes of
Keras variables inside it go to the arrays, so that model code is the same on every backend.
"""

import ctypes
import os
from functools import partial

import jax
import jax.numpy as jnp
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


# Only glibc has it; Windows has no library without a name.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
LONG_COMPILATION = 1.0  # seconds: not that of every operation that is run by itself


def _return_memory(event, seconds, **_):
    """Gives back to the system what compiling took, before what was compiled runs.

    XLA's compiler frees hundreds of megabytes in threads of its own, and there glibc leaves them.
    """
    if event == "/jax/core/compile/backend_compile_duration" and seconds > LONG_COMPILATION:
        _trim(0)


if _trim is not None:
    jax.monitoring.register_event_duration_secs_listener(_return_memory)


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


def remat(function):
    """The function, computed again for the gradient.

    `jax.checkpoint` keeps the two computations apart by barriers, which XLA for CPUs drops: it then
    sees the same twice, and keeps all of the first. So the second starts from other numbers.
    """

    def run(*values):
        pure, weights = jax.closure_convert(function, *values)
        return _computed_twice(pure, values, tuple(weights))

    return run


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _computed_twice(function, values, weights):
    return function(*values, *weights)


def _forward(function, values, weights):
    return function(*values, *weights), (values, weights)


def _backward(function, kept, gradients):
    values, weights = kept
    # min(|g|, 0) = 0, but XLA does not know: neither that the sums are the values, nor what they
    # are before it has the gradient.
    gradient = next(g for g in gradients if jnp.issubdtype(g.dtype, jnp.floating))
    zero = jnp.minimum(jnp.abs(gradient.ravel()[0]), 0)
    values = tuple(value + zero.astype(value.dtype) for value in values)
    _, backward = jax.vjp(lambda values, weights: function(*values, *weights), values, weights)
    return backward(gradients)


_computed_twice.defvjp(_forward, _backward)


def compile_function(function, variables, jit_compile):
    """Compiles `function` with the variables' values as arguments, not baked in as constants."""

    @jax.jit
    def compiled(values, *args):
        with StatelessScope(list(zip(variables, values))):
            return function(*args)

    return lambda *args: compiled([v.value for v in variables], *args)
