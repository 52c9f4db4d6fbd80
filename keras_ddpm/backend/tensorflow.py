"""TensorFlow: GradientTape, variables updated in place, `tf.function`."""

import functools

import tensorflow as tf

ANY_SIZE = True


class TrainStep:
    def fit(self, x=None, *args, validation_data=None, **kwargs):
        data = _untuned(validation_data)
        return super().fit(_untuned(x), *args, validation_data=data, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(_untuned(x), *args, **kwargs)

    def train_step(self, data):
        batch = self.prepare_batch(data)
        state = self.forward_state()
        before = [tf.identity(variable.value) for variable in state]
        with tf.GradientTape() as tape:
            loss, target, output = self.denoising_loss(batch, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        healthy = self.examine(batch, loss, gradients)

        def restore():
            for variable, value in zip(state, before):
                variable.assign(value)

        tf.cond(healthy, lambda: self.apply_gradients(gradients, batch), restore)
        return self.update_metrics(batch, loss, target, output)

    def step_optimizer(self, gradients):
        self.optimizer.apply(gradients, self.trainable_variables)

    def test_step(self, data):
        batch = self.prepare_batch(data, validation=True)
        loss, target, output = self.denoising_loss(batch, training=False)
        self.examine(batch, loss)
        return self.update_metrics(batch, loss, target, output)


def _untuned(data):
    """An `ImageDataset` as a data set for which no epoch has to wait."""
    return data.to_tf_dataset() if hasattr(data, "to_tf_dataset") else data


def network_function(network, training):
    """The network as it is: TensorFlow traces it."""
    return functools.partial(network, training=training)


def compile_function(function, variables, jit_compile):
    """Compiles `function`; TensorFlow finds the variables that it reads.

    It is traced once for all sizes of the first axis of its arguments: TensorFlow never frees a
    trace that contains `silu`. Loops and branches are those of `keras.ops`, so AutoGraph has
    nothing to convert.
    """
    program = tf.function(functools.partial(function), jit_compile=jit_compile, autograph=False)

    def any_size(x):
        return tf.TensorSpec((None, *x.shape[1:]) if x.shape.rank else (), x.dtype)

    def run(*args):
        specs = tf.nest.map_structure(any_size, args)
        return program.get_concrete_function(*specs)(*args)

    return run


def lerp(average, weight, rate):
    """average − rate (average − weight), with fewer operations than `assign_add`."""
    rate, difference = tf.cast(rate, average.dtype), average.value - weight.value
    handle = average.value.handle
    tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=difference)


def adam_numbers(*numbers):
    """As float32 tensors, and a zero."""
    return [tf.cast(number, "float32") for number in (*numbers, 0.0)]


def adam_step(weight, momentum, velocity, gradient, step_size, beta_1, beta_2, epsilon, zero):
    """TensorFlow's own kernel; Keras' Adam takes some twenty operations for each weight.

    `weight` is a `tf.Variable`, the moments are Keras variables.
    """
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=momentum.value.handle,
        v=velocity.value.handle,
        beta1_power=zero,  # `step_size` has the correction already
        beta2_power=zero,
        lr=step_size,
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon,
        grad=tf.cast(gradient, "float32"),
    )
