"""PyTorch: autograd, variables updated in place, inference mode."""

import gc

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from keras_ddpm.backend.torch_adam import arrange_moments, fused_adam
from keras_ddpm.backend.torch_layers import arrange_kernel, attend, convolve, group_norm
from keras_ddpm.graph import has_state, nodes_in_order, plan_nodes, run_nodes

__all__ = [
    "TrainStep",
    "arrange_kernel",
    "arrange_moments",
    "attend",
    "compile_function",
    "convolve",
    "group_norm",
    "move_averages",
    "network_function",
    "remat",
]

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
