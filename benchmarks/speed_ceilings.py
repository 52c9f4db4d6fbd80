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

    Written in TensorFlow, one after the other, with nothing between them.
    """
    import keras
    import tensorflow as tf
    from flops import convolution_flops

    from keras_ddpm import build_unet

    layers = [
        layer
        for layer in build_unet(**network).layers
        if isinstance(layer, keras.layers.Conv2D) and max(layer.kernel_size) > 1
    ]
    dtype = keras.DTypePolicy(policy).compute_dtype
    pairs = [
        (
            tf.random.normal((batch_size, *layer.input.shape[1:]), dtype=dtype),
            tf.random.normal(layer.kernel.shape, dtype=dtype),
            layer.strides,
        )
        for layer in layers
    ]

    @tf.function
    def program():
        ends = []
        for x, kernel, strides in pairs:
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = tf.nn.conv2d(x, kernel, strides, "SAME")
            to_x, to_kernel = tape.gradient(y, [x, kernel], output_gradients=y)
            ends += [to_x[0, 0, 0, 0], to_kernel[0, 0, 0, 0]]  # or TensorFlow would leave them out
        return tf.add_n(ends)

    def run():
        begin = time.perf_counter()
        program().numpy()
        return time.perf_counter() - begin

    run()
    yield {"flops": 3 * batch_size * sum(map(convolution_flops, layers))}
    while True:
        yield run()
