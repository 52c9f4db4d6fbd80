"""Cases of speed.py that no network can beat: what the machine can do at most."""

import time

import numpy as np


def matrix_product(policy, size):
    """Seconds of a product of two square matrices in the precision of `policy`."""
    import keras
    from keras import ops

    from keras_ddpm.backend import compile_function

    dtype = keras.DTypePolicy(policy).compute_dtype
    rng = np.random.default_rng(0)
    a, b = (
        ops.convert_to_tensor(rng.standard_normal((size, size), "float32"), dtype) for _ in range(2)
    )
    program = compile_function(ops.matmul, [], jit_compile=False)

    def run():
        begin = time.perf_counter()
        ops.convert_to_numpy(ops.cast(program(a, b)[:1, :1], "float32"))  # waits for it
        return time.perf_counter() - begin

    run()
    yield {"flops": 2 * size**3}
    while True:
        yield run()


def convolutions(network, policy, batch_size):
    """Seconds of a network's convolutions of more than a pixel, forward and both gradients.

    Written in the backend's own words, one after the other, with nothing between them.
    """
    import keras
    from flops import convolution_flops

    from keras_ddpm import build_unet

    layers = [
        layer
        for layer in build_unet(**network).layers
        if isinstance(layer, keras.layers.Conv2D) and max(layer.kernel_size) > 1
    ]
    dtype = keras.DTypePolicy(policy).compute_dtype
    rng = np.random.default_rng(0)

    def random(shape):
        return keras.ops.convert_to_tensor(rng.standard_normal(shape, "float32"), dtype)

    cases = [
        (random((batch_size, *layer.input.shape[1:])), random(layer.kernel.shape), layer.strides[0])
        for layer in layers
    ]
    program = PROGRAMS[keras.backend.backend()](cases)

    def run():
        begin = time.perf_counter()
        program()
        return time.perf_counter() - begin

    run()
    yield {"flops": 3 * batch_size * sum(map(convolution_flops, layers))}
    while True:
        yield run()


def _in_tensorflow(cases):
    import tensorflow as tf

    @tf.function
    def program():
        ends = []  # of all results, or TensorFlow would leave out what nobody asks for
        for x, kernel, stride in cases:
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = tf.nn.conv2d(x, kernel, stride, "SAME")
            to_x, to_kernel = tape.gradient(y, [x, kernel], output_gradients=y)
            ends += [to_x[0, 0, 0, 0], to_kernel[0, 0, 0, 0]]
        return tf.add_n(ends)

    return lambda: program().numpy()


def _in_jax(cases):
    import jax

    arrays, strides = [case[:2] for case in cases], [case[2] for case in cases]

    @jax.jit
    def program(arrays):
        ends = []
        for (x, kernel), stride in zip(arrays, strides):
            y, gradient = jax.vjp(
                lambda x, kernel, stride=stride: jax.lax.conv_general_dilated(
                    x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                ),
                x,
                kernel,
            )
            ends += [a[0, 0, 0, 0] for a in gradient(y)]
        return sum(ends)

    return lambda: float(program(arrays))


def _in_torch(cases):
    import torch

    def leaf(array, order):  # as PyTorch orders it, and lying in memory as it does best
        array = array.permute(order).contiguous(memory_format=torch.channels_last)
        return array.detach().requires_grad_()

    cases = [
        (leaf(x, (0, 3, 1, 2)), leaf(kernel, (3, 2, 0, 1)), stride) for x, kernel, stride in cases
    ]

    def program():
        ends = []
        for x, kernel, stride in cases:
            y = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
            gradients = torch.autograd.grad(y, (x, kernel), y.detach())
            ends += [a[0, 0, 0, 0] for a in gradients]
        return float(sum(ends))

    return program


PROGRAMS = {"tensorflow": _in_tensorflow, "jax": _in_jax, "torch": _in_torch}
