"""The graph of a functional network, for those who run it in their own way."""

from itertools import chain


def nodes_in_order(network):
    """The calls of which a functional `keras.Model` consists, none before what it needs.

    Keras 3.15 has no public way to walk its graph. Each node has an `operation`, `arguments` whose
    `fill_in` puts tensors in the place of symbols, and `outputs`; a symbol is known by its id.
    """
    depths = sorted(network._nodes_by_depth, reverse=True)
    nodes = chain.from_iterable(network._nodes_by_depth[depth] for depth in depths)
    return [node for node in nodes if not node.is_input]
