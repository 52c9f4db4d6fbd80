"""Rematerialisation: blocks forget what they compute, and compute it again for the gradient.

Chen et al. (2016), "Training deep nets with sublinear memory cost". `keras.RematScope` does so for
each layer by itself, but what a layer is given is kept then, and in a U-Net that is nearly all
there is. Here a whole block is one piece, and only what passes from block to block is kept.
"""

import keras

from keras_ddpm.backend import remat
from keras_ddpm.graph import has_state, nodes_in_order, plan_nodes, run_nodes


def rematerialised(network):
    """What `network(inputs, training=True)` computes, in the memory of its largest block.

    A block ends with a residual connection: an `Add` of images of one size. Layers with a state,
    such as Dropout's random numbers, run only once and their inputs are kept.

    Args:
        network: functional `keras.Model`.

    Returns:
        A function from the list of the network's inputs to its output.

    Raises:
        ValueError: if the network has no residual connection.

    Example:

    >>> network = build_unet(64)
    >>> noise = rematerialised(network)([x_t, t])
    """
    nodes = nodes_in_order(network)
    if not any(map(_ends_a_block, nodes)):
        raise ValueError(
            f"remat=True, but the network {network.name!r} has no residual connection at which to "
            "split it, as those of `build_unet` have."
        )
    # What comes after a piece, or is an output, has to leave it.
    needed = {id(tensor) for tensor in network.outputs}
    plan = []
    for some, forgets in reversed(_split(nodes)):
        made = [id(tensor) for node in some for tensor in node.outputs]
        used = dict.fromkeys(id(tensor) for node in some for tensor in node.input_tensors)
        given, results = [k for k in used if k not in made], [k for k in made if k in needed]
        is_last = not plan  # whose gradient comes at once
        plan.insert(0, (plan_nodes(some, results), forgets and not is_last, given, results))
        needed |= set(given)

    def run(inputs):
        tensors = dict(zip(map(id, network.inputs), inputs))
        for nodes, forgets, given, results in plan:
            # Only floats have gradients. Others, timesteps and labels, are simply seen.
            floats = [k for k in given if keras.backend.is_float_dtype(tensors[k].dtype)]
            seen = {k: tensors[k] for k in given if k not in floats}

            def piece(*values, nodes=nodes, floats=floats, seen=seen, results=results):
                inside = {**seen, **dict(zip(floats, values))}
                run_nodes(nodes, inside, training=True)
                return tuple(inside[k] for k in results)

            piece = remat(piece) if forgets else piece
            tensors.update(zip(results, piece(*(tensors[k] for k in floats))))
        return tensors[id(network.outputs[0])]

    return run


def _split(nodes):
    """Pairs of some nodes in a row, and whether they may be run twice."""
    pieces, piece = [], []
    for node in nodes:
        if has_state(node.operation):  # which is to be moved on once
            pieces += [(piece, True), ([node], False)]
            piece = []
            continue
        piece.append(node)
        if _ends_a_block(node):
            pieces.append((piece, True))
            piece = []
    pieces.append((piece, True))
    return [(nodes, forgets) for nodes, forgets in pieces if nodes]


def _ends_a_block(node):
    """Whether it is a residual connection; where a time embedding is added, its shape differs."""
    shapes = {tensor.shape for tensor in node.input_tensors}
    is_image = len(node.outputs[0].shape) == 4
    return isinstance(node.operation, keras.layers.Add) and is_image and len(shapes) == 1
