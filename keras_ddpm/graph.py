"""The graph of a functional network, for those who run it in their own way."""

from itertools import chain

import keras


def nodes_in_order(network):
    """The calls of which a functional `keras.Model` consists, none before what it needs.

    Keras 3.15 has no public way to walk its graph. A node has an `operation`, `arguments` whose
    `fill_in` puts tensors in the place of symbols, and `outputs`; a symbol is known by its id.
    """
    depths = sorted(network._nodes_by_depth, reverse=True)
    nodes = chain.from_iterable(network._nodes_by_depth[depth] for depth in depths)
    return [node for node in nodes if not node.is_input]


def has_state(operation):
    """Whether running it in training moves something on: random numbers, a running mean."""
    if not isinstance(operation, keras.Layer):
        return False
    draws = len(operation.variables) > len(operation.weights)  # which leave out random states
    return draws or (operation.trainable and bool(operation.non_trainable_variables))


def run_nodes(plan, tensors, training):
    """Runs some nodes, and lets go of each tensor once no other of them needs it.

    Args:
        plan: what `plan_nodes` made of the nodes.
        tensors: dict from ids of symbols to tensors. Results come in, what is used up goes.
        training: bool, for the layers that ask.
    """
    for node, finished in plan:
        args, kwargs = node.arguments.fill_in(tensors)
        if "training" in getattr(node.operation, "_call_context_args", ()):
            kwargs["training"] = training
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        tensors.update(zip(map(id, node.outputs), outputs))
        del args, kwargs, outputs
        for key in finished:
            del tensors[key]


def plan_nodes(nodes, results):
    """For `run_nodes`: each node, and the ids of what nobody needs after it; `results` are kept."""
    needed, plan = set(results), []
    for node in reversed(nodes):
        finished = {id(tensor) for tensor in [*node.input_tensors, *node.outputs]} - needed
        needed |= finished
        plan.insert(0, (node, finished))
    return plan
