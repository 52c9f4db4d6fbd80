"""The layers for PyTorch compute what those of Keras do, and their gradients are the same."""

import keras
import numpy as np
import pytest
from keras import layers, ops

if keras.backend.backend() != "torch":
    pytest.skip("these layers are for PyTorch", allow_module_level=True)

import torch

from keras_ddpm.backend.torch_layers import Conv2D, GroupNormalization, dot_product_attention

TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 3e-2}  # relative to the largest number


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        one, other = (a.detach().float().numpy() for a in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def run(function, arguments, weights=()):
    """The result, and the gradients of a weighted sum by arguments and weights."""
    arguments = [torch.tensor(a, requires_grad=True) for a in arguments]
    result = function(*arguments)
    numbers = np.random.default_rng(9).standard_normal(tuple(result.shape))
    total = (result.float() * torch.tensor(numbers, dtype=torch.float32)).sum()
    gradients = torch.autograd.grad(total, [*arguments, *(w.value for w in weights)])
    return [result, *gradients]


def assert_same_layer(ours, of_keras, x, policy):
    """In values and gradients; Keras' own layer is always float32."""
    rng = np.random.default_rng(1)
    for layer in (ours, of_keras):
        layer.build(x.shape)
    of_keras.set_weights([rng.standard_normal(w.shape) for w in of_keras.weights])
    ours.set_weights(of_keras.get_weights())
    found, expected = (run(layer, [x], layer.trainable_weights) for layer in (ours, of_keras))
    assert keras.backend.standardize_dtype(found[0].dtype) == ours.compute_dtype
    assert found[0].shape == expected[0].shape == ours.compute_output_shape(x.shape)
    assert_close(found, expected, TOLERANCES[policy])
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()


@pytest.mark.parametrize("policy", TOLERANCES)
@pytest.mark.parametrize("size", [(8, 8), (9, 6), (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": "same", "strides": 2},
        {"kernel_size": 1, "padding": "same", "strides": 3, "use_bias": False},
        {"kernel_size": (2, 1), "padding": "valid", "activation": "swish"},
        {"kernel_size": (3, 2), "padding": "same", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "same", "groups": 2},
    ],
)
def test_convolution(options, size, policy):
    x = np.random.default_rng(0).standard_normal((2, *size, 4)).astype("float32")
    ours, of_keras = Conv2D(6, dtype=policy, **options), layers.Conv2D(6, **options)
    assert_same_layer(ours, of_keras, x, policy)


def test_the_kernel_of_a_convolution_needs_no_copy():
    """And its gradient as well, also with weights of a file."""
    layer = Conv2D(6, 3, padding="same")
    layer.build((2, 8, 8, 4))
    layer.set_weights([np.ones(w.shape) for w in layer.weights])
    for values in (
        layer.kernel.value,
        run(layer, [np.ones((2, 8, 8, 4), "float32")], [layer.kernel])[-1],
    ):
        assert values.permute(3, 2, 0, 1).is_contiguous(memory_format=torch.channels_last)
    output = layer(torch.ones(2, 8, 8, 4))
    assert output.is_contiguous()


@pytest.mark.parametrize("policy", TOLERANCES)
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_group_normalization(groups, policy):
    """With channels of very different sizes, and means far from zero."""
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(0, 3, 12), rng.uniform(0.1, 5, 12), (3, 6, 5, 12)).astype("float32")
    ours = GroupNormalization(groups, epsilon=1e-3, dtype=policy)
    assert_same_layer(ours, layers.GroupNormalization(groups, epsilon=1e-3), x, policy)


def test_group_normalization_of_what_needs_no_gradient():
    """As after a convolution that is not trained."""
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 4)).astype("float32")
    results = []
    for layer in (GroupNormalization(2), layers.GroupNormalization(2)):
        (layer(x) ** 3).mean().backward()
        results.append([w.value.grad for w in layer.trainable_weights])
    assert_close(*results, 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("pixels", [25, 289])  # either side of 256, where the method changes
def test_attention(pixels, heads, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, pixels, heads, 4)).astype("float32") for _ in range(3)]

    def attention(*arrays):
        return dot_product_attention(*(ops.cast(a, dtype) for a in arrays))

    found, expected = run(attention, arrays), run(ops.dot_product_attention, arrays)
    assert keras.backend.standardize_dtype(found[0].dtype) == dtype
    assert_close(found, expected, TOLERANCES["float32" if dtype == "float32" else "mixed_bfloat16"])


def test_one_image_and_one_channel_train_on_one_thread():
    """PyTorch has a convolution of its own for this, particular about how kernels lie in memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        convolutions = [Conv2D(units, 3, padding="same") for units in (8, 1)]
        model = keras.Sequential([keras.Input((8, 8, 8)), *convolutions])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        before = model.get_weights()
        model.train_on_batch(np.ones((1, 8, 8, 8)), np.ones((1, 8, 8, 1)))
        assert all((old != new).any() for old, new in zip(before, model.get_weights()))
    finally:
        torch.set_num_threads(threads)
