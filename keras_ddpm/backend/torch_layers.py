"""PyTorch: what layers compute, in the order in memory that its kernels want."""

import math

import torch
import torch.nn.functional as F
from keras import ops


def arrange_kernel(kernel):
    """Moves the outputs to the front, in memory only, where PyTorch's convolution wants them.

    It would copy the kernel on every call otherwise, and its gradient as well.
    """
    # Not `contiguous`: of one output it would keep strides that PyTorch cannot differentiate.
    outputs_first = kernel.value.data.permute(3, 0, 1, 2).clone(
        memory_format=torch.contiguous_format
    )
    kernel.value.data = outputs_first.permute(1, 2, 3, 0)


def convolve(x, kernel, bias, strides, padding, dilation_rate):
    """As Keras 3.15 does it, but that copies x twice: to PyTorch's usual order, and back."""
    # Seen as (batch, channels, height, width), what lies in memory is PyTorch's channels_last.
    x, kernel = x.permute(0, 3, 1, 2), ops.convert_to_tensor(kernel).permute(3, 2, 0, 1)
    bias = bias if bias is None else ops.convert_to_tensor(bias)
    margins = (0, 0)
    if padding == "same":
        sizes = zip(x.shape[2:], kernel.shape[2:], strides, dilation_rate)
        (top, bottom), (left, right) = (_margins(*one) for one in sizes)
        if (top, left) == (bottom, right):
            margins = (top, left)
        else:
            x = F.pad(x, (left, right, top, bottom))
    groups = x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, bias, strides, margins, dilation_rate, groups)
    return x.permute(0, 2, 3, 1)


def _margins(size, kernel_size, stride, dilation):
    """Zeros before and after, so that every `stride`-th pixel gets its output."""
    last = (-(-size // stride) - 1) * stride  # where the last one is
    total = max(last + dilation * (kernel_size - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def attend(query, key, value):
    """Keras' own, whose kernel is slow on a CPU for the gradient of short rows in bfloat16.

    There, two products and a softmax take less, a tenth of its time where rows are shortest.
    """
    is_short = query.shape[1] <= 256
    is_slow = is_short and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not (is_slow and query.requires_grad):
        return ops.dot_product_attention(query, key, value)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # heads before pixels
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2)


def group_norm(x, groups, gamma, beta, epsilon, swish):
    """PyTorch's own, which keeps its statistics in float32."""
    if gamma is None:  # its gradient (torch 2.13) fails where there is a beta and no gamma
        gamma = torch.ones(x.shape[-1], device=x.device)
    gamma, beta = (a if a is None else ops.cast(a, x.dtype) for a in (gamma, beta))
    x = torch.group_norm(x.permute(0, 3, 1, 2), groups, gamma, beta, epsilon)
    x = x.permute(0, 2, 3, 1)
    return F.silu(x) if swish else x
