"""The U-Net: its size, its shapes, what it is sensitive to, and its errors."""

import math

import keras
import numpy as np
import pytest
from conftest import compiled, random_weights, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_ddpm import build_unet
from keras_ddpm.layers import Conv2D, GroupNormalization, SelfAttention, TimeEmbedding


def small(**kwargs):
    defaults = {"image_size": 8, "channels": 1, "widths": (8, 16), "num_res_blocks": 1}
    defaults |= {"norm_groups": 4, "has_attention": (False, False)}
    return build_unet(**{**defaults, **kwargs})


def inputs(network, t=3, seed=0, batch=2):
    x = np.random.default_rng(seed).standard_normal((batch, *network.inputs[0].shape[1:]))
    return [x.astype("float32"), np.full(batch, t, "int32")]


def test_parameters_of_the_cifar10_network_of_ho_et_al():
    network = build_unet(
        32, widths=(128, 256, 256, 256), norm_groups=32, has_attention=(False, True, False, False)
    )
    assert network.count_params() == 35_746_307


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="slow, the same everywhere")
def test_parameters_of_the_256_pixel_network_of_ho_et_al():
    network = build_unet(
        256,
        widths=(128, 128, 256, 256, 512, 512),
        norm_groups=32,
        has_attention=(False, False, False, False, True, False),
    )
    assert network.count_params() == 113_673_219


@settings(max_examples=6, deadline=None)
@given(
    levels=st.integers(1, 3),
    channels=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    attention=st.lists(st.booleans(), min_size=3, max_size=3),
    blocks=st.integers(1, 2),
)
def test_any_sizes_that_fit_give_an_output_like_the_input(
    levels, channels, height, width, attention, blocks
):
    factor = 2 ** (levels - 1)
    size = (height * factor, width * factor)
    network = build_unet(
        size, channels, (4, 8, 4)[:levels], attention[:levels], blocks, norm_groups=2
    )
    assert network.output.shape == (None, *size, channels)


def test_a_network_for_odd_non_square_images_runs():
    network = build_unet((6, 10), 2, (4, 8), (False, True), 1, norm_groups=2)
    output = compiled(random_weights(network))(inputs(network))
    assert output.shape == (2, 6, 10, 2) and np.isfinite(output).all()


def test_a_fresh_network_says_zero():
    network = small(num_classes=2)
    output = compiled(network)([*inputs(network), np.int32([0, 1])])
    np.testing.assert_array_equal(output, 0)


def test_every_block_of_a_fresh_network_is_the_identity():
    """So nothing of t, which enters inside the blocks, reaches even a random last layer."""
    network = small()
    random_weights(network.get_layer("conv_out"))
    call = compiled(network)
    early, late = (call(inputs(network, t)) for t in (1, 900))
    np.testing.assert_array_equal(early, late)
    assert np.abs(early).max() > 0.1
    attention = next(layer for layer in network.layers if isinstance(layer, SelfAttention))
    assert not any(w.any() for w in attention.projection.get_weights())


def test_images_of_a_batch_do_not_see_each_other():
    network = random_weights(small(num_heads=2))
    x, t = inputs(network, batch=3)
    network = compiled(network)
    together = network([x, t])
    for i in range(3):
        others_changed = np.where(np.arange(3)[:, None, None, None] == i, x, x[::-1] + 1)
        np.testing.assert_allclose(together[i], network([others_changed, t])[i], atol=1e-4)


@pytest.mark.parametrize("freq_shift", [0, 1])
def test_the_time_embedding_is_sines_and_cosines(freq_shift):
    t = np.int32([0, 1, 999])
    found = to_numpy(TimeEmbedding(8, freq_shift=freq_shift)(t))
    angles = t[:, None] * 10000.0 ** (-np.arange(4) / (4 - freq_shift))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    turned = to_numpy(TimeEmbedding(8, cosine_first=True, freq_shift=freq_shift)(t))
    np.testing.assert_array_equal(turned, np.concatenate([found[:, 4:], found[:, :4]], axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bfloat16_keeps_the_timestep_exact_and_the_output_float32(dtype_policy):
    exact = to_numpy(TimeEmbedding(8)(np.int32([998, 999])))
    dtype_policy("mixed_bfloat16")
    network = random_weights(small())
    embedding = network.get_layer("time_embedding")(np.int32([998, 999]))
    assert keras.backend.standardize_dtype(embedding.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(embedding), exact, atol=1e-4)
    call = compiled(network)
    outputs = [call(inputs(network, t)) for t in (998, 999)]
    assert outputs[0].dtype == np.float32
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_attention_is_added_to_its_input_before_normalisation():
    """With the projection at zero, the middle block must hand on x, not GroupNorm(x)."""
    network = random_weights(small())
    attention = next(layer for layer in network.layers if isinstance(layer, SelfAttention))
    attention.projection.set_weights([w * 0 for w in attention.projection.get_weights()])
    i = network.layers.index(attention)
    norm, add = network.layers[i - 1], network.layers[i + 1]
    assert isinstance(norm, layers.GroupNormalization) and isinstance(add, layers.Add)
    probe = keras.Model(network.inputs, [norm.input, norm.output, add.output])
    x, normed, added = map(to_numpy, probe(inputs(network)))
    np.testing.assert_array_equal(added, x)
    assert np.abs(normed - x).max() > 0.1


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_queries_and_keys(heads):
    layer = SelfAttention(heads)
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype("float32")
    layer(x)
    random_weights(layer)
    flat, size = x.reshape(2, 6, 4), 4 // heads

    def project(dense, values):
        kernel, bias = map(to_numpy, (dense.kernel, dense.bias))
        return values @ kernel + bias

    q, k, v = (project(dense, flat) for dense in (layer.query, layer.key, layer.value))
    parts = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = np.exp(q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(size))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
    expected = project(layer.projection, np.concatenate(parts, -1)).reshape(x.shape)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-5)


def test_head_dim_sets_the_number_of_heads_by_the_width():
    network = small(widths=(8, 16), has_attention=(True, True), head_dim=4)
    heads = {layer.num_heads for layer in network.layers if isinstance(layer, SelfAttention)}
    assert heads == {2, 4}


def test_every_label_changes_the_output_and_so_does_no_label():
    network = random_weights(small(num_classes=3))
    x, t = inputs(network, batch=1)
    call = compiled(network)
    outputs = [call([x, t, np.int32([label])]) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.abs(outputs[i] - outputs[j]).max() > 1e-3
    assert network.get_layer("label_embedding").input_dim == 4


def test_dropout_acts_in_training_only():
    network = random_weights(small(dropout=0.5))
    x = inputs(network)
    calm = [to_numpy(network(x, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*calm)
    assert np.abs(to_numpy(network(x, training=True)) - calm[0]).max() > 1e-3


def test_each_dropout_has_a_seed_that_set_random_seed_rules():
    def seeds():
        keras.utils.set_random_seed(4)
        network = small(dropout=0.5)
        return [layer.seed for layer in network.layers if isinstance(layer, layers.Dropout)]

    first = seeds()
    assert first == seeds()
    assert None not in first and len(set(first)) == len(first) > 3


def test_norm_epsilon_reaches_every_normalisation():
    network = small(norm_epsilon=1e-3, has_attention=(True, False))
    norms = [layer for layer in network.layers if isinstance(layer, layers.GroupNormalization)]
    assert {norm.epsilon for norm in norms} == {1e-3} and {n.groups for n in norms} == {4}
    norms = [layer for layer in small().layers if isinstance(layer, layers.GroupNormalization)]
    assert {norm.epsilon for norm in norms} == {1e-6}


def test_config_round_trip():
    network = random_weights(small(num_classes=2, has_attention=(False, True), num_heads=2))
    config = keras.saving.serialize_keras_object(network)
    again = keras.saving.deserialize_keras_object(config)
    again.set_weights(network.get_weights())
    x = [*inputs(network), np.int32([0, 2])]
    np.testing.assert_allclose(compiled(again)(x), compiled(network)(x), atol=1e-6)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"image_size": 9}, ValueError, r"image_size=\(9, 9\) must be divisible by 2.*8 and 10"),
        (
            {"image_size": (8, 7)},
            ValueError,
            r"image_size=\(8, 7\) must be divisible by 2.*6 and 8",
        ),
        ({"image_size": 0}, ValueError, "image_size must be at least 1, got 0"),
        ({"widths": (8, 18)}, ValueError, "divisible by norm_groups=4; 18 is not"),
        ({"widths": (8,)}, ValueError, r"widths=\(8,\) and has_attention.* 1 and 2"),
        ({"widths": (), "has_attention": ()}, ValueError, "one entry a level"),
        ({"widths": (8, 16.5)}, TypeError, "widths must be an int, got 16.5"),
        ({"widths": (1, 2), "norm_groups": 1}, ValueError, r"widths\[0\]=1 must be even"),
        ({"num_heads": 3}, ValueError, "divisible by num_heads=3; 16 is not"),
        ({"head_dim": 5}, ValueError, "divisible by head_dim=5; 16 is not"),
        ({"num_heads": 2, "head_dim": 4}, ValueError, "num_heads=2 or head_dim=4, not both"),
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"num_res_blocks": 0}, ValueError, "num_res_blocks must be at least 1, got 0"),
        ({"norm_groups": 0}, ValueError, "norm_groups must be at least 1, got 0"),
        ({"dropout": 1.0}, ValueError, r"dropout must be a number in \[0, 1\), got 1.0"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_what_would_work(kwargs, error, message):
    with pytest.raises(error, match=message):
        small(**kwargs)


NORM_OPTIONS = [
    {},
    {"center": False},
    {"scale": False},
    {"activation": "swish"},
    {"activation": "tanh"},
    {"activation": "swish", "center": False, "scale": False},
]


def norm_of_keras(activation=None, **options):
    norm = layers.GroupNormalization(**options)
    return keras.Sequential([norm, layers.Activation(activation, dtype=norm.dtype_policy)])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("options", NORM_OPTIONS)
def test_group_normalization_is_that_of_keras(policy, options):
    rng = np.random.default_rng(0)
    # Channels of very different size, and means far from zero.
    x = rng.normal(rng.normal(0, 30, 12), rng.uniform(0.1, 5, 12), (3, 6, 5, 12)).astype("float32")
    ours, keras_own = (
        layer(groups=4, epsilon=1e-6, dtype=policy, **options)
        for layer in (GroupNormalization, norm_of_keras)
    )
    for layer in (ours, keras_own):
        layer.build(x.shape)
        layer.set_weights([np.linspace(-2, 2, 12) + i for i in range(len(layer.weights))])
    restored = GroupNormalization.from_config(ours.get_config())
    assert restored.activation is keras.activations.get(options.get("activation"))
    found, expected = ours(x), keras_own(x)
    assert keras.backend.standardize_dtype(found.dtype) == ours.compute_dtype
    tolerance = 2e-5 if policy == "float32" else 2e-2
    np.testing.assert_allclose(
        to_numpy(ops.cast(found, "float32")),
        to_numpy(ops.cast(expected, "float32")),
        rtol=tolerance,
        atol=tolerance,
    )


def gradients_of(layer, images, weight, set_weights):
    """Of sum(weight · layer(images)), by the images and by the layer's weights.

    A step of SGD with rate 1 moves each weight by its gradient; the images are an embedding.
    """
    count, *shape = images.shape
    x = layers.Embedding(count, math.prod(shape))
    inputs = keras.Input((), dtype="int32")
    model = keras.Sequential([inputs, x, layers.Reshape(shape), layer])
    x.set_weights([images.reshape(count, -1)])
    set_weights(layer)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), lambda y, output: ops.sum(y * output))
    model.train_on_batch(np.arange(count), weight)
    return [old - new for old, new in zip(before, model.get_weights())]


def assert_gradients_agree(ours, expected, tolerance):
    for one, other in zip(ours, expected, strict=True):
        largest = np.abs(other).max()
        assert largest > 0.1
        np.testing.assert_allclose(one / largest, other / largest, atol=tolerance)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("options", NORM_OPTIONS)
def test_group_normalization_has_the_gradients_of_keras(policy, options):
    rng = np.random.default_rng(0)
    images = rng.normal(rng.normal(0, 3, 12), rng.uniform(0.1, 5, 12), (3, 6, 5, 12))
    weight = rng.normal(size=images.shape)

    def set_weights(layer):
        layer.set_weights([np.linspace(-2, 2, 12) + i for i in range(len(layer.weights))])

    ours, expected = (
        # Keras' own in float32: in bfloat16, Keras rounds every piece of swish's gradient.
        gradients_of(
            layer(groups=4, epsilon=1e-3, dtype=dtype, **options), images, weight, set_weights
        )
        for layer, dtype in ((GroupNormalization, policy), (norm_of_keras, "float32"))
    )
    assert_gradients_agree(ours, expected, 1e-5 if policy == "float32" else 2e-2)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", [5, 17])  # pixels on the near and on the far side of 256
def test_attention_has_the_same_gradients_in_bfloat16(size, heads):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, size, size, 8))
    weight = rng.normal(size=images.shape)
    in_bfloat16, in_float32 = (
        gradients_of(SelfAttention(heads, dtype=policy), images, weight, random_weights)
        for policy in ("mixed_bfloat16", "float32")
    )
    # Those of the biases are left out: that of the keys' is zero, whatever they are.
    assert_gradients_agree(
        *([g for g in one if g.ndim > 1] for one in (in_bfloat16, in_float32)), 3e-2
    )


def test_one_output_and_one_image_train_on_one_thread():
    """PyTorch 2.13 has a convolution for this, particular about how kernels lie in memory."""
    if keras.backend.backend() == "torch":
        import torch

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
        if keras.backend.backend() == "torch":
            torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": "same", "strides": 2},
        {"kernel_size": 1, "padding": "same", "strides": 3, "use_bias": False},
        {"kernel_size": (2, 1), "padding": "valid", "activation": "swish"},
        {"kernel_size": (3, 2), "padding": "same", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "same", "groups": 2, "dtype": "mixed_bfloat16"},
    ],
)
def test_convolution_is_that_of_keras(size, options):
    x = np.random.default_rng(0).normal(size=(2, *size, 4)).astype("float32")
    ours, keras_own = (layer(6, **options) for layer in (Conv2D, layers.Conv2D))
    assert ours(x).shape == keras_own(x).shape == ours.compute_output_shape(x.shape)
    keras_own.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) for w in ours.get_weights()])
    ours.set_weights(keras_own.get_weights())
    found, expected = (to_numpy(ops.cast(layer(x), "float32")) for layer in (ours, keras_own))
    tolerance = 0.03 if "dtype" in options else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    restored = Conv2D.from_config(ours.get_config())
    assert restored.get_config() == ours.get_config()
