"""What `keras.ops` does well enough where a compiler follows: on TensorFlow and JAX."""

import functools
import math

from keras import ops


def network_function(network, training):
    """The network as it is."""
    return functools.partial(network, training=training)


def move_averages(averages, values, rate):
    """average ← average + rate (value − average)."""
    for average, value in zip(averages, values):
        average.assign_add(ops.cast(rate, average.dtype) * (value - average))


def arrange_kernel(kernel):
    """Keras' order is the one that it is used in."""


def arrange_moments(optimizer, weights):
    """As their weights, so in that order already."""


def convolve(x, kernel, bias, strides, padding, dilation_rate):
    """The convolution of Keras."""
    x = ops.conv(x, kernel, strides, padding, "channels_last", dilation_rate)
    return x if bias is None else x + bias


def attend(query, key, value):
    return ops.dot_product_attention(query, key, value)


def group_norm(x, groups, gamma, beta, epsilon, swish):
    """Wu & He (2018), with little work: two readings and one writing of the pixels.

    Each channel is measured first, over contiguous pixels, and the groups from their channels;
    scale and shift are then one multiplication and one addition a pixel.
    """
    channels = x.shape[-1]
    grouped = (-1, groups, channels // groups)
    pixels = ops.reshape(ops.cast(x, "float32"), (-1, math.prod(x.shape[1:-1]), channels))
    channel_mean = ops.mean(pixels, axis=1, keepdims=True)
    channel_variance = ops.reshape(ops.mean(ops.square(pixels - channel_mean), axis=1), grouped)
    channel_mean = ops.reshape(channel_mean, grouped)
    # The variance of a group is that within its channels and that between their means.
    mean = ops.mean(channel_mean, axis=-1, keepdims=True)
    variance = channel_variance + ops.square(channel_mean - mean)
    variance = ops.mean(variance, axis=-1, keepdims=True)

    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * ops.reshape(ops.cast(gamma, "float32"), grouped[1:])
    shift = -mean * scale
    if beta is not None:
        shift = shift + ops.reshape(ops.cast(beta, "float32"), grouped[1:])
    scale, shift = (
        ops.reshape(ops.broadcast_to(a, ops.shape(channel_mean)), (-1, 1, 1, channels))
        for a in (scale, shift)
    )
    y = ops.cast(x, "float32") * scale + shift
    return ops.cast(ops.silu(y) if swish else y, x.dtype)
