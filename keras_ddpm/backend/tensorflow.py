"""TensorFlow: GradientTape, variables updated in place, `tf.function`."""

import contextlib
import functools
import math

import keras
import tensorflow as tf

from keras_ddpm.backend import replicas


class TrainStep:
    def train_step(self, data):
        batch = self.prepare_batch(data)
        share = replicas.share(batch["x_start"])
        with tf.GradientTape() as tape:
            loss, target, output = self.denoising_loss(self.run_network, batch, training=True)
            scaled_loss = self.optimizer.scale_loss(loss * share)
        gradients = tape.gradient(scaled_loss, self.network.trainable_variables)
        replicas.meet(self._judge_and_apply, batch, loss * share, gradients)
        return self.update_metrics(batch, loss, target, output)

    def _judge_and_apply(self, batch, loss, gradients):
        healthy = self.examine(batch, loss, gradients)
        tf.cond(healthy, lambda: self.apply_gradients(gradients, batch), lambda: None)

    def step_optimizer(self, gradients):
        optimizer, apply = self.optimizer, self.optimizer.apply
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and replicas.are_mirrored():
            apply = optimizer._common_apply  # which `apply` calls where the replicas have met
        with fused_adam(optimizer):
            apply(gradients, self.network.trainable_variables)

    def test_step(self, data):
        batch = self.prepare_batch(data, validation=True)
        loss, target, output = self.denoising_loss(self.run_averaged, batch, training=False)
        replicas.meet(self.examine, batch, loss * replicas.share(batch["x_start"]))
        return self.update_metrics(batch, loss, target, output)

    def compute_loss(self, *args, **kwargs):
        """The mean over this replica's images: Keras has it divided by the number of replicas."""
        return super().compute_loss(*args, **kwargs) * replicas.count()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """`compile` has built everything. Keras would take batches of the first epoch for this.

        It is where Keras hands over what it will iterate on, epoch after epoch.
        """
        dataset = getattr(iterator, "_distributed_dataset", None)
        if isinstance(dataset, tf.data.Dataset):  # and not one that is split among devices
            iterator._distributed_dataset = without_tuning(dataset)

    def compile(self, **kwargs):
        replicas.prepare(self, **kwargs)
        super().compile(**kwargs)


def without_tuning(dataset):
    """`dataset` as it is, but not tuned while it runs, unless its own options say so.

    tf.data tunes in a thread that should end with the epoch, but often sleeps on: until 5, 10, 20
    or 41 s after the epoch began, and `fit` waits for it. Batches of images need no tuning.
    """
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def fused_adam(optimizer):
    """Lets Keras' Adam take its step with one kernel a weight, where Keras has twenty operations.

    The step is that of Keras to 5e-5, the rounding of 1 − β₂. A large network starts much sooner,
    for its graph is not half as large, and each step is quicker. Other optimizers stay as they are.
    """
    if type(optimizer) is not keras.optimizers.Adam or optimizer.amsgrad:
        yield
        return
    # Tensors, each made once, instead of numbers that become one for every weight.
    beta_1, beta_2, epsilon, zero = (
        tf.constant(a, "float32")
        for a in (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon, 0)
    )
    count = keras.ops.cast(optimizer.iterations + 1, "float32")
    # Kingma & Ba (2015), end of section 2: what makes up for averages that begin at zero.
    correction = tf.sqrt(1 - beta_2**count) / (1 - beta_1**count)

    def update_step(gradient, variable, learning_rate):
        index = optimizer._get_variable_index(variable)

        def like(number):
            return tf.cast(number, variable.dtype)

        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[index].value.handle,
            v=optimizer._velocities[index].value.handle,
            beta1_power=like(zero),  # the correction is in lr already
            beta2_power=like(zero),
            lr=like(learning_rate * correction),
            beta1=like(beta_1),
            beta2=like(beta_2),
            epsilon=like(epsilon),
            grad=like(tf.convert_to_tensor(gradient)),
        )

    optimizer.update_step = update_step
    try:
        yield
    finally:
        del optimizer.update_step


def move_averages(averages, values, rate):
    """average ← average − rate (average − value), in place."""

    def move(average, value):
        difference = average - value
        tf.raw_ops.ResourceApplyGradientDescent(
            var=average.handle, alpha=tf.cast(rate, difference.dtype), delta=difference
        )

    for average, value in zip(averages, values):
        replicas.update(average.value, move, value.value)


def convolve(x, kernel, bias, strides, padding, dilation_rate):
    """The convolution of Keras, and a bias that TensorFlow knows as one.

    It then adds it in the convolution, and has a quick kernel for its gradient.
    """
    x = keras.ops.conv(x, kernel, strides, padding, "channels_last", dilation_rate)
    return x if bias is None else tf.nn.bias_add(x, keras.ops.convert_to_tensor(bias))


def group_norm(x, groups, gamma, beta, epsilon, swish):
    """Wu & He (2018), with its gradient written out, and compiled.

    Its many operations, one after the other, would each go over all pixels. The forward pass is
    left to TensorFlow's own operations, so that what is exported holds nothing else.
    """
    channels = x.shape[-1]
    gamma = tf.ones(channels) if gamma is None else tf.cast(gamma, "float32")
    beta = tf.zeros(channels) if beta is None else tf.cast(beta, "float32")

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        mean, inverse = measure(x, groups, epsilon)
        y = scaled(x, mean, inverse, gamma, beta)
        y = tf.cast(tf.nn.silu(y) if swish else y, x.dtype)

        def gradient(upstream):
            return group_norm_gradient(x, mean, inverse, gamma, beta, upstream, groups, swish)

        return y, gradient

    return normalise(x, gamma, beta)


def split(x, groups):
    """Images as float32 `(batch, pixels, groups, channels of a group)`."""
    grouped = (-1, math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
    return tf.reshape(tf.cast(x, "float32"), grouped)


def measure(x, groups, epsilon):
    """Mean of each group of channels, and 1 / its standard deviation: `(batch, 1, groups, 1)`."""
    # Each channel is measured first, over contiguous pixels, and the groups from their
    # channels: the variance of a group is that within them and that between their means.
    pixels = split(x, groups)
    centre = tf.reduce_mean(pixels, axis=1, keepdims=True)
    spread = tf.reduce_mean(tf.math.squared_difference(pixels, centre), axis=1, keepdims=True)
    mean = tf.reduce_mean(centre, axis=3, keepdims=True)
    spread += tf.math.squared_difference(centre, mean)
    return mean, tf.math.rsqrt(tf.reduce_mean(spread, axis=3, keepdims=True) + epsilon)


def scaled(x, mean, inverse, gamma, beta):
    """(x − mean) inverse · gamma + beta, in float32."""
    groups = mean.shape[2]
    gamma, beta = (tf.reshape(a, (groups, -1)) for a in (gamma, beta))
    scale = inverse * gamma
    return tf.reshape(split(x, groups) * scale + (beta - mean * scale), tf.shape(x))


@tf.function(jit_compile=True, autograph=False)
def group_norm_gradient(x, mean, inverse, gamma, beta, upstream, groups, swish):
    """Gradients of x, gamma and beta."""
    if swish:  # y σ(y) has the gradient σ(y) (1 + y (1 − σ(y)))
        y = scaled(x, mean, inverse, gamma, beta)
        sigmoid = tf.sigmoid(y)
        upstream = tf.cast(upstream, "float32") * sigmoid * (1 + y * (1 - sigmoid))
    # With x̂ = (x − mean) inverse and g = upstream · gamma, the gradient of x is
    # inverse · (g − E g − x̂ E(g x̂)), E being the mean over a group.
    upstream, normed = split(upstream, groups), (split(x, groups) - mean) * inverse
    to_beta = tf.reduce_sum(upstream, axis=1, keepdims=True)
    to_gamma = tf.reduce_sum(upstream * normed, axis=1, keepdims=True)
    gamma = tf.reshape(gamma, (groups, -1))
    num_pixels = upstream.shape[1]
    constant = tf.reduce_mean(to_beta * gamma, axis=3, keepdims=True) / num_pixels
    along = tf.reduce_mean(to_gamma * gamma, axis=3, keepdims=True) / num_pixels
    to_x = inverse * (upstream * gamma - constant - normed * along)
    to_x = tf.cast(tf.reshape(to_x, tf.shape(x)), x.dtype)
    return to_x, *(tf.reshape(tf.reduce_sum(a, axis=0), [-1]) for a in (to_gamma, to_beta))


def remat(function):
    """The function, computed again for the gradient.

    `tf.recompute_grad`, which is `keras.remat`, has the second computation wait for the gradient
    by adding a zero made of it to what the function is given: copies of a block's images. A graph
    keeps the order that it is told, and nothing need be added. XLA does not keep that order.
    """

    def run(*values):
        in_xla = tf.__internal__.get_enclosing_xla_context() is not None
        if in_xla or tf.executing_eagerly():
            return keras.remat(function)(*values)
        return _computed_twice(function)(*values)

    return run


def _computed_twice(function):
    @tf.custom_gradient
    def run(*values):
        def gradient(*upstream, variables=()):
            sources = [*values, *variables]
            with tf.control_dependencies(upstream), tf.GradientTape() as tape:
                tape.watch(sources)
                results = function(*values)
            found = tape.gradient(results, sources, output_gradients=upstream)
            to_values, to_variables = found[: len(values)], found[len(values) :]
            return (to_values, to_variables) if variables else to_values

        return function(*values), gradient

    return run


def compile_function(function, variables, jit_compile):
    """Compiles `function`; TensorFlow finds the variables it reads by itself.

    Its loops and branches are those of `keras.ops`, so AutoGraph need not look for Python's.
    """
    # TensorFlow warns when one piece of code is traced often. As a partial, each program counts
    # for itself: it is traced once.
    return tf.function(functools.partial(function), jit_compile=jit_compile, autograph=False)
