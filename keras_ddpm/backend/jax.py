"""JAX: pure functions, whose state comes in as arrays and goes out as arrays.

A `StatelessScope` gives arrays to the model's variables for as long as it lasts: reads and writes
of Keras variables inside it go to these arrays. So `model/` is the same on every backend.
"""

import functools

import jax
from keras import StatelessScope, ops

ANY_SIZE = False


class TrainStep:
    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state

        def loss_function(trainable):
            values = (trainable, non_trainable, optimizer, metrics)
            with StatelessScope(self._bind(*values), collect_losses=True) as scope:
                batch = self.prepare_batch(data)
                loss, target, output = self.denoising_loss(batch, training=True)
                scaled_loss = self.optimizer.scale_loss(loss)
            _, drawn, _, _ = self._collect(scope)  # the seeds have moved on
            return scaled_loss, (batch, loss, target, output, drawn)

        gradient_function = jax.value_and_grad(loss_function, has_aux=True)
        (_, (batch, loss, target, output, drawn)), gradients = gradient_function(trainable)

        with StatelessScope(self._bind(trainable, drawn, optimizer, metrics)) as scope:
            healthy = self.examine(batch, loss, gradients)
            logs = self.update_metrics(batch, loss, target, output)

        def apply(state):
            with StatelessScope(self._bind(*state)) as scope:
                self.apply_gradients(gradients, batch)
            return self._collect(scope)

        def restore(state):
            kept = {id(variable) for variable in self.forward_state()}
            pairs = zip(self.non_trainable_variables, non_trainable, state[1])
            return state[0], [old if id(v) in kept else new for v, old, new in pairs], *state[2:]

        # A branch, because `where` would read and write all weights and moments once more.
        return logs, jax.lax.cond(healthy, apply, restore, self._collect(scope))

    def step_optimizer(self, gradients):
        """Loss scaling branches, and a JAX branch may not assign: values go in and come out."""
        weights, state = self.trainable_variables, self.optimizer.variables
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
            loss, target, output = self.denoising_loss(batch, training=False)
            self.examine(batch, loss)
            logs = self.update_metrics(batch, loss, target, output)
        trainable, non_trainable, _, metrics = self._collect(scope)
        return logs, (trainable, non_trainable, metrics)

    def make_train_function(self, force=False):
        super().make_train_function(force)
        self.train_function = self._keeping_state(self.train_function)

    def make_test_function(self, force=False):
        super().make_test_function(force)
        self.test_function = self._keeping_state(self.test_function)

    def _keeping_state(self, function):
        """Puts the state back into the variables if `function` fails before it has used them.

        Keras takes the values out of the variables for a step, and a wrong batch would lose them.
        """

        @functools.wraps(function)
        def step(state, iterator):
            try:
                return function(state, self._checked(iterator))
            except StopIteration:  # the end of the data
                raise
            except Exception:
                groups = state if len(state) == 4 else (*state[:2], (), state[2])
                for variable, value in self._bind(*groups):
                    if not value.is_deleted():  # which it is once the device has worked on it
                        variable.assign(value)
                raise

        return step

    def _checked(self, iterator):
        for batch in iterator:
            self.check_batch(batch)
            yield batch

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


def network_function(network, training):
    """The network as it is: JAX traces it."""
    return functools.partial(network, training=training)


def compile_function(function, variables, jit_compile):
    """Compiles `function` with the variables' values as arguments, not as constants."""

    @jax.jit
    def compiled(values, *args):
        with StatelessScope(list(zip(variables, values))):
            return function(*args)

    return lambda *args: compiled([v.value for v in variables], *args)


def lerp(average, weight, rate):
    average.assign_add(ops.cast(rate, average.dtype) * (weight - average))


def adam_numbers(*numbers):
    return numbers


def adam_step(weight, momentum, velocity, gradient, step_size, beta_1, beta_2, epsilon):
    """Kingma & Ba (2015), algorithm 1; XLA makes one kernel of it."""
    gradient = ops.cast(gradient, weight.dtype)
    m = momentum + (1 - beta_1) * (gradient - momentum)
    v = velocity + (1 - beta_2) * (ops.square(gradient) - velocity)
    momentum.assign(m)
    velocity.assign(v)
    weight.assign_sub(ops.cast(step_size, weight.dtype) * m / (ops.sqrt(v) + epsilon))
