"""PyTorch: Adam's step by one kernel."""

import contextlib
import functools
import math

import keras
import torch
from keras import ops
from torch.optim.adam import adam


@functools.cache
def _adam():
    return type(keras.optimizers.Adam())  # of a class that Keras has for PyTorch only


def is_plain_adam(optimizer):
    return type(optimizer) is _adam() and not optimizer.amsgrad


def arrange_moments(optimizer, weights):
    """Brings Adam's moments into the order in memory of their weights, and returns both kinds.

    Keras makes them in its own order. Moved only in the first step, the old ones would leave gaps
    that nothing fits in any more.
    """
    if not is_plain_adam(optimizer):
        return
    places = [optimizer._get_variable_index(weight) for weight in weights]
    moments = []
    for of_kind in (optimizer._momentums, optimizer._velocities):
        moments.append([of_kind[place].value for place in places])
        for moment, weight in zip(moments[-1], weights):
            moment.data = ordered_like(weight.value, moment.data)
    return moments


@contextlib.contextmanager
def fused_adam(optimizer):
    """Lets Keras' Adam take its step with PyTorch's one kernel, which reads each number once.

    Keras has ten operations, and some of them need the memory of all weights once more.
    Other optimizers stay as they are.
    """
    if not is_plain_adam(optimizer):
        yield
        return

    def update_step(gradients, weights, learning_rate):
        steps = int(ops.convert_to_tensor(optimizer.iterations))
        values = [weight.value for weight in weights]
        gradients = [ordered_like(value, gradient) for value, gradient in zip(values, gradients)]
        moments = arrange_moments(optimizer, weights)
        adam(
            *([as_in_memory(tensor) for tensor in one] for one in (values, gradients, *moments)),
            max_exp_avg_sqs=[],
            state_steps=list(values[0].new_full((len(values),), steps).unbind()),
            lr=float(learning_rate),
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            # PyTorch divides √v by √(1 − β₂ⁿ) before it adds this, Keras afterwards.
            eps=optimizer.epsilon / math.sqrt(1 - optimizer.beta_2 ** (steps + 1)),
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
        )

    optimizer._parallel_update_step = update_step
    try:
        yield
    finally:
        del optimizer._parallel_update_step


def ordered_like(value, tensor):
    """`tensor`, in memory in the order of `value`: Adam's kernel goes through both at once."""
    strides = zip(tensor.shape, tensor.stride(), value.stride())
    if all(size == 1 or one == other for size, one, other in strides):
        return tensor
    return torch.empty_like(value, dtype=tensor.dtype).copy_(tensor)


def as_in_memory(tensor):
    """All numbers of a tensor that leaves no gaps, one after the other as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))
