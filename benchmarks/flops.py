"""How many floating point operations a network takes, two for a multiplication and an addition.

Only products of matrices and convolutions count, as is usual: the rest is a few per cent. A
training step takes three times those of the forward pass.
"""

import math

import keras

from keras_ddpm.layers import SelfAttention


def forward_flops(network):
    """Those of one image through a network of `build_unet`."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            total += convolution_flops(layer)
        elif isinstance(layer, keras.layers.Dense):
            total += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        elif isinstance(layer, SelfAttention):
            _, height, width, channels = layer.output.shape
            pixels = height * width
            projections, attention = 4 * pixels * channels**2, 2 * pixels**2 * channels
            total += 2 * (projections + attention)
    return total


def convolution_flops(layer):
    _, height, width, _ = layer.output.shape
    return 2 * math.prod(layer.kernel.shape) * height * width
