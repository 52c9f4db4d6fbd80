"""The layers of the networks compute their formulas; fresh weights have the right distribution."""

import keras
import numpy as np
import pytest
from keras import ops
from tools import random_weights, to_numpy

from keras_ddpm import UNet
from keras_ddpm.backend import compile_function
from keras_ddpm.layers import ResidualBlock, SelfAttention, TimeEmbedding, VarianceScaling

RNG = np.random.default_rng(0)
X = RNG.normal(RNG.normal(0, 3, 8), RNG.uniform(0.2, 2, 8), (2, 3, 4, 8)).astype("float32")
TIME = RNG.standard_normal((2, 6)).astype("float32")
POLICIES = {"float32": 1e-4, "mixed_bfloat16": 0.1}  # with the tolerance


def silu(x):
    return x / (1 + np.exp(-x))


def normalize(x, norm, groups=4):
    """Group normalisation, with the layer's scale and centre."""
    parts = x.reshape(*x.shape[:-1], groups, -1)
    axes = (1, 2, 4)
    variance = parts.var(axes, keepdims=True)
    parts = (parts - parts.mean(axes, keepdims=True)) / np.sqrt(variance + norm.epsilon)
    return parts.reshape(x.shape) * to_numpy(norm.gamma) + to_numpy(norm.beta)


def dense(x, layer):
    return x @ to_numpy(layer.kernel) + to_numpy(layer.bias)


def convolve(x, layer):
    """A convolution that keeps the size."""
    kernel = to_numpy(layer.kernel)
    margin, (height, width) = kernel.shape[0] // 2, x.shape[1:3]
    padded = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    result = to_numpy(layer.bias)
    for i, row in enumerate(kernel):
        for j, matrix in enumerate(row):
            result = result + padded[:, i : i + height, j : j + width] @ matrix
    return result


def program_of(layer, training=False):
    """The built layer as a function of arrays: eager JAX compiles each operation alone."""

    def run(*inputs):
        output = layer(list(inputs) if len(inputs) > 1 else inputs[0], training=training)
        assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
        return ops.cast(output, "float32")

    program = compile_function(run, layer.variables, False)
    return lambda *inputs: to_numpy(program(*map(ops.convert_to_tensor, inputs)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("width", [8, 12])  # with and without a convolution of the shortcut
def test_residual_block_is_its_formula(policy, width):
    layer = ResidualBlock(width, norm_groups=4, norm_epsilon=1e-3, dropout=0.5, dtype=policy)
    layer.build([X.shape, TIME.shape])
    program = program_of(layer)
    fresh = program(X, TIME)
    random_weights(layer)
    h = convolve(silu(normalize(X, layer.norm_1)), layer.conv_1)
    h = h + dense(TIME, layer.time)[:, None, None]
    h = convolve(silu(normalize(h, layer.norm_2)), layer.conv_2)
    shortcut = X if layer.shortcut is None else convolve(X, layer.shortcut)
    assert (layer.shortcut is None) == (width == 8) and np.abs(h).max() > 0.5
    found = program(X, TIME)
    np.testing.assert_allclose(found, shortcut + h, atol=POLICIES[policy], rtol=0.01)
    if width == 8:  # the identity before training; dropout changes the output in training only
        np.testing.assert_allclose(fresh, X, rtol=1e-2 if policy != "float32" else 0)
        assert np.abs(program_of(layer, training=True)(X, TIME) - found).max() > 0.1


def test_dropout_zeroes_single_numbers_and_scales_the_others():
    """Those of one pixel, channel and image each."""
    layer, x = ResidualBlock(8, norm_groups=4, dropout=0.5), np.tile(X, (1, 3, 2, 1))
    layer.build([x.shape, TIME.shape])
    random_weights(layer)
    kernel = np.zeros((3, 3, 8, 8), "float32")
    kernel[1, 1] = np.eye(8)  # so that the last convolution shows what it gets
    layer.conv_2.set_weights([kernel, np.zeros(8, "float32")])
    dropped, whole = (program_of(layer, training)(x, TIME) - x for training in (True, False))
    scale = dropped / whole
    kept = scale > 1
    np.testing.assert_allclose(scale, np.where(kept, 2, 0), atol=0.05)
    for axis in range(4):  # neighbours are dropped independently
        assert (np.diff(kept, axis=axis).mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("heads", [1, 2])
def test_self_attention_is_its_formula(policy, heads):
    """Added to x itself, not to the normalised x."""
    layer = SelfAttention(heads, norm_groups=4, norm_epsilon=1e-3, dtype=policy)
    layer.build(X.shape)
    program = program_of(layer)
    np.testing.assert_allclose(program(X), X, rtol=1e-2 if policy != "float32" else 0)
    random_weights(layer, scale=2.0)
    flat, size = normalize(X, layer.norm).reshape(2, 12, 8), 8 // heads
    q, k, v = (dense(flat, part) for part in (layer.query, layer.key, layer.value))
    results = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.exp(q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(size))
        results.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
    expected = X + dense(np.concatenate(results, -1), layer.projection).reshape(X.shape)
    found = program(X)
    assert np.abs(expected - X).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=POLICIES[policy], rtol=0.01)


@pytest.mark.once
@pytest.mark.parametrize(
    "layer, shape",
    [
        (ResidualBlock(12, norm_groups=2, norm_epsilon=1e-3, dropout=0.1), [X.shape, TIME.shape]),
        (SelfAttention(2, norm_groups=4, dtype="mixed_bfloat16"), X.shape),
        (TimeEmbedding(6, cosine_first=True, freq_shift=0), (2,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_are_saved_with_their_arguments(layer, shape):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    layer.build(shape)
    again.build(shape)
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]


@pytest.mark.parametrize("freq_shift", [0, 1])
def test_the_time_embedding_is_sines_and_cosines(freq_shift, dtype_policy):
    dtype_policy("mixed_bfloat16")  # which has no 999
    t = np.int32([0, 1, 998, 999])
    found = to_numpy(TimeEmbedding(8, freq_shift=freq_shift)(t))
    angles = t[:, None] * 10000.0 ** (-np.arange(4) / (4 - freq_shift))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    turned = to_numpy(TimeEmbedding(8, cosine_first=True, freq_shift=freq_shift)(t))
    np.testing.assert_array_equal(turned, np.roll(found, 4, axis=1))


@pytest.mark.parametrize("shape", [(3, 3, 48, 64), (200, 100)])
def test_fresh_weights_have_the_distribution_of_keras(shape):
    of_keras = keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform", seed=1)
    ours, theirs = (
        np.sort(to_numpy(draw(shape)).ravel()) for draw in (VarianceScaling(1), of_keras)
    )
    # The distance of Kolmogorov & Smirnov: of two samples of n numbers each it exceeds
    # 1.95 sqrt(2 / n) once in a thousand times.
    ranks = np.searchsorted(theirs, ours) / len(theirs)
    assert np.abs(ranks - np.arange(len(ours)) / len(ours)).max() < 1.95 * np.sqrt(2 / len(ours))
    np.testing.assert_allclose(ours.var(), theirs.var(), rtol=0.05)
    np.testing.assert_allclose(ours[[0, -1]], theirs[[0, -1]], rtol=5e-3)


def test_fresh_weights_follow_from_the_seed():
    one, same, other = (to_numpy(VarianceScaling(seed)((4, 6))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
    keras.utils.set_random_seed(5)
    first, second = (to_numpy(VarianceScaling()((4, 6))) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(to_numpy(VarianceScaling()((4, 6))), first)


@pytest.mark.once
@pytest.mark.parametrize("padding, margins", [("end", (0, 1)), ("both", (1, 1))])
def test_the_unet_is_its_layers_in_the_order_of_the_paper(padding, margins):
    """Ho et al. (2020), appendix B, with two levels and attention at the second one."""
    options = {"num_classes": 2, "downsample_padding": padding}
    network = random_weights(UNet(8, 1, (8, 16), (False, True), 1, norm_groups=4, **options))
    layer, image = network.get_layer, RNG.standard_normal((2, 8, 8, 1)).astype("float32")
    t, label = np.int32([3, 900]), np.int32([0, 2])
    time = ops.silu(layer("time_dense_1")(layer("time_embedding")(t)))
    time = ops.silu(layer("time_dense_2")(time) + layer("label_embedding")(label))
    skips = [layer("conv_in")(image)]
    skips.append(layer("down_0_block_0")([skips[-1], time]))
    halve = layer("down_0_halve")
    padded = ops.pad(skips[-1], [(0, 0), margins, margins, (0, 0)])
    skips.append(ops.conv(padded, halve.kernel, 2, "valid") + halve.bias)
    skips.append(layer("down_1_attention_0")(layer("down_1_block_0")([skips[-1], time])))
    x = layer("middle_attention_0")(layer("middle_block_0")([skips[-1], time]))
    x = layer("middle_block_1")([x, time])
    for i in range(2):
        x = layer(f"up_1_block_{i}")([ops.concatenate([x, skips.pop()], -1), time])
        x = layer(f"up_1_attention_{i}")(x)
    x = layer("up_1_double")(ops.repeat(ops.repeat(x, 2, 1), 2, 2))
    for i in range(2):
        x = layer(f"up_0_block_{i}")([ops.concatenate([x, skips.pop()], -1), time])
    expected = to_numpy(layer("conv_out")(ops.silu(layer("norm_out")(x))))
    np.testing.assert_allclose(to_numpy(network([image, t, label])), expected, atol=1e-5)
