"""Blocks that are computed again for the gradient: the same steps, and less kept in memory."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from tools import BACKEND, fit, make_model, random_weights

from keras_ddpm import UNet
from keras_ddpm.layers import ResidualBlock, SelfAttention, TimeEmbedding

SIZE, BLOCKS = 8, 6  # five residual blocks, and attention in the middle
IMAGES = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 1), "uint8")


def make(remat):
    network = UNet(SIZE, 1, (4,), (False,), 1, 2, remat=remat)
    return make_model(network=random_weights(network))


def two_blocks(remat):
    """One block of each kind, with dropout, between an input and an output of one channel."""
    x_t, t = keras.Input((SIZE, SIZE, 1)), keras.Input((), dtype="int32")
    options = {"norm_groups": 1, "remat": remat}
    x = ResidualBlock(4, dropout=0.3, **options)([x_t, TimeEmbedding(8)(t)])
    x = SelfAttention(2, **options)(x)
    return random_weights(keras.Model([x_t, t], layers.Dense(1)(x)))


def test_training_is_the_same():
    """Also with dropout: both computations of a block must drop the same numbers."""
    results = []
    for remat in (True, False):
        keras.utils.set_random_seed(0)
        network = two_blocks(remat)
        before = network.get_weights()
        model = make_model(optimizer=keras.optimizers.SGD(0.1), network=network)
        results.append((fit(model, IMAGES, epochs=2), network.get_weights()))
    (losses, found), (expected_losses, expected) = results
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for weight, wanted in zip(found, expected):
        np.testing.assert_allclose(weight, wanted, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(before, expected)) > 1e-3


def loss_of(model):
    """The mean square of the output in training, as a function without arguments."""
    x, t = ops.ones((8, SIZE, SIZE, 1)), ops.full((8,), 30, dtype="int32")
    return lambda: ops.mean(model([x, t], training=True) ** 2)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch says what it keeps")
def test_pytorch_keeps_less_than_half():
    import torch

    def kept(model):
        found, loss = {}, loss_of(model)
        loss()  # records

        def pack(tensor):
            found[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss()
        for weight in model.network.trainable_variables:
            found.pop(weight.value.data_ptr(), None)
        return sum(found.values())

    assert kept(make(True)) < 0.5 * kept(make(False))


@pytest.mark.skipif(BACKEND != "jax", reason="JAX shows its program")
def test_jax_marks_each_block_once():
    import jax

    def marked(model):
        loss, weights = loss_of(model), model.network.trainable_variables

        def pure(values):
            with keras.StatelessScope(list(zip(weights, values))):
                return loss()

        program = jax.make_jaxpr(pure)([weight.value for weight in weights])
        names = [equation.primitive.name for equation in program.eqns]
        return sum(name.startswith(("remat", "checkpoint")) for name in names)

    assert (marked(make(True)), marked(make(False))) == (BLOCKS, 0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow shows its graph")
def test_in_tensorflow_the_second_computation_waits_for_the_gradient():
    import tensorflow as tf

    def convolutions(model):
        """How many the gradient computes, and how many of them need a gradient before."""

        @tf.function(autograph=False)
        def gradient():
            with tf.GradientTape() as tape:
                loss = loss_of(model)()
            return tape.gradient(loss, [v.value for v in model.network.trainable_variables])

        waits = {}

        def must_wait(op):
            if op not in waits:
                earlier = [*(tensor.op for tensor in op.inputs), *op.control_inputs]
                waits[op] = op.type.endswith("BackpropInput") or any(map(must_wait, earlier))
            return waits[op]

        operations = gradient.get_concrete_function().graph.get_operations()
        found = [op for op in operations if op.type == "Conv2D"]
        return len(found), sum(map(must_wait, found))

    once, waiting = convolutions(make(False))
    assert waiting == 0
    twice, waiting = convolutions(make(True))
    assert waiting == twice - once > once / 2
