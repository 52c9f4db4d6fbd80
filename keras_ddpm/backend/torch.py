"""PyTorch: autograd, variables updated in place, inference mode."""

import contextlib
import functools
import gc
import math

import keras
import torch
import torch.nn.functional as F
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.adam import adam

from keras_ddpm.graph import has_state, nodes_in_order, plan_nodes, run_nodes

MOST_LISTS = 8  # of operations that a network keeps


class TrainStep:
    def train_step(self, data):
        batch = self.prepare_batch(data)
        self.zero_grad()
        loss, target, output = self.denoising_loss(self.run_network, batch, training=True)
        self.optimizer.scale_loss(loss).backward()
        gradients = [v.value.grad for v in self.network.trainable_variables]

        with torch.no_grad():
            if self.examine(batch, loss, gradients):
                self.apply_gradients(gradients, batch)
            return self.update_metrics(batch, loss, target, output)

    def step_optimizer(self, gradients):
        with fused_adam(self.optimizer):
            self.optimizer.apply(gradients, self.network.trainable_variables)

    def test_step(self, data):
        with torch.no_grad():
            batch = self.prepare_batch(data, validation=True)
            loss, target, output = self.denoising_loss(self.run_averaged, batch, training=False)
            self.examine(batch, loss)
            return self.update_metrics(batch, loss, target, output)


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


def compile_function(function, variables, jit_compile):
    """Runs `function` eagerly without autograd: torch.compile would unroll the whole loop."""

    def compiled(*args):
        with torch.inference_mode():
            return function(*args)

    return compiled


def network_function(network, training):
    """The network as one list of PyTorch's operations, recorded once for each size of batch.

    Keras takes 150 µs a layer to look at what it is given, more than a small layer computes. And it
    keeps all tensors until the network has ended; the list lets go of what nothing needs any more.

    A network with a state to move on, as Dropout has, is trained layer by layer instead, and so is
    one that adds to the loss: a list has nothing but its output.
    """
    nodes, results = nodes_in_order(network), list(map(id, network.outputs))
    plan, variables, lists = plan_nodes(nodes, results), network.variables, {}

    def walk(inputs):
        tensors = dict(zip(map(id, network.inputs), inputs))
        run_nodes(plan, tensors, training)
        outputs = [tensors[key] for key in results]
        return outputs[0] if len(outputs) == 1 else outputs

    def record(values, inputs):
        def pure(values, inputs):
            with keras.StatelessScope(zip(variables, values), collect_losses=True) as scope:
                outputs = walk(inputs)
            losses.extend(scope.losses)
            return outputs

        losses = []
        # "fake": of the tensors, only shapes are computed.
        operations = make_fx(pure, tracing_mode="fake")(values, inputs)
        return operations if not losses else lambda values, inputs: walk(inputs)

    def run(inputs):
        if torch.compiler.is_compiling():  # which records by itself
            return walk(inputs)
        values = [variable.value for variable in variables]  # as they are now
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in lists:
            if len(lists) >= MOST_LISTS:
                del lists[next(iter(lists))]  # the oldest
            lists[key] = record(values, inputs)
        return lists[key](values, inputs)

    return walk if training and any(has_state(node.operation) for node in nodes) else run


def remat(function):
    """Keras' own, but what only cycles of references still hold is let go of first.

    Some layers of Keras 3.15 (Add, Concatenate, Reshape) leave such cycles around what they are
    given, and the exception that ends PyTorch's second run leaves more. Python's collector comes
    too late to them.
    """

    def run(*args):
        gc.collect(0)  # the youngest: less than a millisecond
        return function(*args)

    return keras.remat(run)


def move_averages(averages, values, rate):
    """average ← average + rate (value − average), a few launches for all of them."""
    torch._foreach_lerp_([a.value for a in averages], [v.value for v in values], float(rate))


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
