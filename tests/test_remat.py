"""Rematerialisation: the same steps, and less kept for them."""

import keras
import numpy as np
import pytest
from conftest import random_weights, tiny_network

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet, remat
from keras_ddpm.graph import nodes_in_order
from keras_ddpm.remat import rematerialised

BACKEND = keras.backend.backend()
SIZE = 16


def make_network(**options):
    options = {"widths": (8, 16), "has_attention": (False, True), "num_res_blocks": 1, **options}
    return build_unet(SIZE, **options)


def make_model(remat, **options):
    keras.utils.set_random_seed(0)
    network = random_weights(make_network(**options))
    model = DiffusionModel(network, GaussianDiffusion(), label_dropout=0.5, seed=0, remat=remat)
    model.compile(keras.optimizers.SGD(0.05))
    return model


def train(model, steps=3):
    """The losses, and all weights, after some steps on random images."""
    x = np.random.default_rng(0).integers(0, 256, (4 * steps, SIZE, SIZE, 3), "uint8")
    labels = None if model.num_classes is None else np.arange(len(x)) % model.num_classes
    losses = model.fit(x, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return losses.history["loss"], model.get_weights()


@pytest.mark.parametrize(
    "policy, options",
    [
        ("float32", {}),
        ("float32", {"num_classes": 5, "dropout": 0.3}),
        ("mixed_bfloat16", {"downsample_padding": "both"}),
    ],
)
def test_steps_stay_the_same(policy, options, dtype_policy):
    dtype_policy(policy)
    (losses, weights), (expected_losses, expected) = (
        train(make_model(remat, **options)) for remat in (True, False)
    )
    exact = policy == "float32"
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5 if exact else 2e-2)
    for found, wanted in zip(weights, expected):
        np.testing.assert_allclose(found, wanted, atol=1e-5 if exact else 2e-2)
    start = make_model(False, **options).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, expected)) > 1e-3  # something moved


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch tells what it keeps")
def test_half_of_what_was_kept_is_forgotten():
    import torch

    def kept(model):
        found = {}

        def pack(tensor):
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        x = np.zeros((8, SIZE, SIZE, 3), "uint8")
        model.denoising_loss(model.run_network, model.prepare_batch((x,)), training=True)  # records
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            batch = model.prepare_batch((x,))
            loss, *_ = model.denoising_loss(model.run_network, batch, training=True)
        for weight in model.network.trainable_variables:
            found.pop(weight.value.data_ptr(), None)
        del loss
        return sum(found.values())

    assert kept(make_model(True)) < 0.5 * kept(make_model(False))


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch tells what it keeps")
def test_what_is_computed_again_does_not_wait_for_the_collector():
    import gc

    import torch

    def left_in_cycles(model):
        """Bytes of tensors that nobody can reach after a step, and the collector would free."""
        model.train_on_batch(x)  # records
        gc.collect()
        gc.disable()
        try:
            model.train_on_batch(x)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            tensors = [a for a in gc.garbage if isinstance(a, torch.Tensor)]
            return sum({a.data_ptr(): a.nbytes for a in tensors}.values())
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    x = np.zeros((8, SIZE, SIZE, 3), "uint8")
    kept = 8 * SIZE * SIZE * 8 * 4  # one image of each, of eight channels
    assert left_in_cycles(make_model(True)) < 10 * kept


@pytest.mark.skipif(BACKEND != "jax", reason="only XLA says before a step what it will take")
def test_what_xla_sets_aside_is_halved():
    import jax

    def set_aside(model):
        """Bytes for all that a gradient computes, by XLA's own count, but for the gradient."""
        x, t = keras.ops.zeros((8, SIZE, SIZE, 3)), keras.ops.full(8, 500, dtype="int32")
        weights = [v.value for v in model.network.trainable_variables]

        def loss(weights):
            with keras.StatelessScope(list(zip(model.network.trainable_variables, weights))):
                return (model.run_network([x, t]) ** 2).mean()

        program = jax.jit(jax.grad(loss)).lower(weights).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert set_aside(make_model(True)) < 0.5 * set_aside(make_model(False))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow tells the order of its graph")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_second_computation_waits_for_the_gradient(jit_compile):
    import tensorflow as tf

    def convolutions(remat):
        """How many a gradient computes, and how many of them have to wait for a gradient."""
        model = make_model(remat)

        @tf.function(jit_compile=jit_compile)
        def gradient(x, t):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model.run_network([x, t]) ** 2)
            return tape.gradient(loss, [v.value for v in model.network.trainable_variables])

        program = gradient.get_concrete_function(tf.zeros((1, SIZE, SIZE, 3)), tf.zeros(1, "int32"))
        waits = {}

        def has_to_wait(op):
            if op not in waits:
                earlier = [tensor.op for tensor in op.inputs]
                if not jit_compile:  # XLA keeps no order but that of numbers that are needed
                    earlier += op.control_inputs
                waits[op] = op.type.endswith("BackpropInput") or any(map(has_to_wait, earlier))
            return waits[op]

        found = [op for op in program.graph.get_operations() if op.type == "Conv2D"]
        return len(found), sum(map(has_to_wait, found))

    once, waiting = convolutions(remat=False)
    assert waiting == 0
    twice, waiting = convolutions(remat=True)
    assert waiting == twice - once > once / 2


def test_a_block_is_a_piece_and_dropout_runs_once(monkeypatch):
    """Blocks end with their residual connection; the last piece and random layers are kept."""
    pieces, run_twice = [], remat.remat

    def counted(piece):
        pieces.append([node.operation.name for node, _ in piece.__kwdefaults__["nodes"]])
        return run_twice(piece)

    monkeypatch.setattr(remat, "remat", counted)
    network = make_network(dropout=0.1)
    x = np.zeros((1, SIZE, SIZE, 3), "float32")
    rematerialised(network)([keras.ops.convert_to_tensor(x), keras.ops.zeros(1, "int32")])
    inside = [name for piece in pieces for name in piece]
    assert len(inside) == len(set(inside))
    everything = {node.operation.name for node in nodes_in_order(network)}
    outside = everything - set(inside)
    assert {"norm_out", "conv_out"} <= outside
    assert {n for n in everything if n.startswith("dropout")} <= outside and len(outside) < 20
    (block,) = [piece for piece in pieces if "up_0_block_1_norm_1" in piece]
    assert "up_0_block_1_conv_1" in block and "up_0_block_0_conv_2" not in block


def test_it_is_saved_with_the_model(tmp_path):
    model = make_model(True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.remat is True
    (losses, weights), (expected_losses, expected) = train(model), train(loaded)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    for found, wanted in zip(weights, expected):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_network_without_blocks_is_refused(dropout):
    with pytest.raises(ValueError, match="remat=True, but the network .* no residual connection"):
        DiffusionModel(tiny_network(dropout=dropout), GaussianDiffusion(), remat=True)
