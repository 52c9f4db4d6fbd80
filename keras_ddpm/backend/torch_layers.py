"""PyTorch: layers on images whose channels come last, without copies, and attention.

Keras copies an image to PyTorch's order and back for each convolution and normalisation. Without
these two layers, on two cores of an AMD EPYC in float32, a training step takes 15 to 28 % longer
for a network of 5.9 M parameters and 11 % longer for one of 63 M (docs/speed.md).
"""

import math

import keras
import torch
import torch.nn.functional as F
from keras import ops


class Conv2D(keras.layers.Conv2D):
    """What `keras.layers.Conv2D` computes, with `data_format="channels_last"`."""

    def build(self, input_shape):
        super().build(input_shape)
        # Outputs come first in memory: PyTorch would copy another order on every call.
        kernel = self.kernel.value.data.permute(3, 0, 1, 2)
        kernel = kernel.clone(memory_format=torch.contiguous_format)
        self.kernel.value.data = kernel.permute(1, 2, 3, 0)

    def call(self, x):
        # Seen as (batch, channels, height, width), this memory is PyTorch's channels_last.
        x = x.permute(0, 3, 1, 2)
        kernel = ops.convert_to_tensor(self.kernel).permute(3, 2, 0, 1)
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        padding = 0
        if self.padding == "same":
            sizes = zip(x.shape[2:], kernel.shape[2:], self.strides, self.dilation_rate)
            (top, bottom), (left, right) = (_margins(*one) for one in sizes)
            if (top, left) == (bottom, right):
                padding = (top, left)
            else:
                x = F.pad(x, (left, right, top, bottom))
        x = F.conv2d(x, kernel, bias, self.strides, padding, self.dilation_rate, self.groups)
        return self.activation(x.permute(0, 2, 3, 1))


def _margins(size, kernel_size, stride, dilation):
    """Zeros before and after, so that every `stride`-th pixel has an output."""
    last = (-(-size // stride) - 1) * stride  # where the last one is
    total = max(last + dilation * (kernel_size - 1) + 1 - size, 0)
    return total // 2, total - total // 2


class GroupNormalization(keras.layers.GroupNormalization):
    """What `keras.layers.GroupNormalization` computes, with scale and centre."""

    def call(self, x):
        if torch.is_grad_enabled() and not x.requires_grad:
            return super().call(x)  # PyTorch 2.13 crashes where only gamma and beta need a gradient
        gamma, beta = (ops.cast(a, x.dtype) for a in (self.gamma, self.beta))
        x = F.group_norm(x.permute(0, 3, 1, 2), self.groups, gamma, beta, self.epsilon)
        return ops.cast(x.permute(0, 2, 3, 1), self.compute_dtype)


def dot_product_attention(query, key, value):
    """softmax(q kᵀ / √d) v, each `(batch, pixels, heads, d)`, as `ops.dot_product_attention`.

    On CPUs PyTorch's kernel is slow for the gradient of short rows in bfloat16: with it, a training
    step of the network of flowers_32.yaml takes 13 % longer than with two products and a softmax.
    """
    is_slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not (is_slow and query.requires_grad and query.shape[1] <= 256):
        return ops.dot_product_attention(query, key, value)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # heads before pixels
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2)
