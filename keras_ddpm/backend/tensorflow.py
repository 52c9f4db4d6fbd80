"""TensorFlow: GradientTape, variables updated in place, `tf.function`."""

import functools

import tensorflow as tf

from keras_ddpm.backend.compiled import convolve, group_norm, inference_function

__all__ = ["TrainStep", "compile_function", "convolve", "group_norm", "inference_function"]


class TrainStep:
    def train_step(self, data):
        batch = self.prepare_batch(data)
        with tf.GradientTape() as tape:
            loss, target, output = self.denoising_loss(self.network, batch, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.network.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)

        healthy = self.examine(batch, loss, gradients)
        tf.cond(healthy, lambda: self.apply_gradients(gradients, batch), lambda: None)
        return self.update_metrics(batch, loss, target, output)

    def step_optimizer(self, gradients):
        self.optimizer.apply(gradients, self.network.trainable_variables)

    def test_step(self, data):
        batch = self.prepare_batch(data, validation=True)
        loss, target, output = self.denoising_loss(self.ema_network, batch, training=False)
        self.examine(batch, loss)
        return self.update_metrics(batch, loss, target, output)


def compile_function(function, variables, jit_compile):
    """Compiles `function`; TensorFlow finds the variables it reads by itself."""
    # TensorFlow warns when one piece of code is traced often. As a partial, each program counts
    # for itself: it is traced once.
    return tf.function(functools.partial(function), jit_compile=jit_compile)
