"""The U-Net: its size, its shapes, what its output depends on, its config and its errors."""

import json
from itertools import combinations

import keras
import numpy as np
import pytest
from keras import ops
from tools import compiled, random_weights

from keras_ddpm import UNet
from keras_ddpm.layers import ResidualBlock, SelfAttention
from keras_ddpm.unet import from_patches, to_patches

T, LABEL = np.full(3, 3, "int32"), np.int32([0, 1, 2])
X = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype("float32")


def small(**options):
    defaults = {"image_size": 8, "channels": 1, "widths": (8, 16), "num_res_blocks": 1}
    defaults |= {"norm_groups": 4, "has_attention": (False, True)}
    return UNet(**{**defaults, **options})


def blocks(network, kind):
    return [layer for layer in network.layers if isinstance(layer, kind)]


@pytest.fixture(scope="module")
def network():
    """A conditional network, its program, and its fresh weights."""
    keras.utils.set_random_seed(0)
    network = small(num_classes=3, num_heads=2)
    return network, compiled(network), network.get_weights()


CIFAR10 = (32, (128, 256, 256, 256), (False, True, False, False))
LSUN = (256, (128, 128, 256, 256, 512, 512), (False, False, False, False, True, False))


@pytest.mark.once
@pytest.mark.parametrize(
    "size, widths, attention, count",
    [(*CIFAR10, 35_746_307), pytest.param(*LSUN, 113_673_219, marks=pytest.mark.slow)],
)
def test_the_networks_of_ho_et_al_have_their_parameters(size, widths, attention, count):
    network = UNet(size, widths=widths, norm_groups=32, has_attention=attention)
    assert network.count_params() == count


@pytest.mark.once
@pytest.mark.parametrize("padding", ["end", "both"])
@pytest.mark.parametrize("size, widths", [((1, 3), (4,)), ((2, 6), (4, 8)), ((12, 4), (4, 8, 4))])
def test_any_sizes_that_fit_give_an_output_like_the_input(size, widths, padding):
    options = {"channels": 2, "norm_groups": 2, "downsample_padding": padding}
    network = UNet(size, widths=widths, has_attention=[True] * len(widths), **options)
    assert network.output.shape == (None, *size, 2)


def test_a_fresh_network_predicts_zero_and_its_blocks_are_the_identity(network):
    """t and label enter inside the blocks: even a random last layer gets nothing of them."""
    network, call, fresh = network
    network.set_weights(fresh)
    np.testing.assert_array_equal(call([X, T, LABEL]), 0)
    random_weights(network.get_layer("conv_out"))
    early, late = call([X, T, LABEL]), call([X, T + 900, LABEL[::-1]])
    np.testing.assert_array_equal(early, late)
    assert np.abs(early).max() > 0.1


def test_an_output_depends_on_its_own_image_t_and_label_only(network):
    network, call, _ = network
    random_weights(network)
    before = call([X, T, LABEL])
    second = np.int32([0, 1, 0])
    change = 0.3 * second[:, None, None, None].astype("float32")
    for inputs in ([X + change, T, LABEL], [X, T + second, LABEL], [X, T, LABEL + 2 * second]):
        moved = np.abs(call(inputs) - before).max((1, 2, 3))
        assert moved[1] > 1e-3 and moved[[0, 2]].max() < 1e-4


def test_every_label_and_no_label_give_another_output(network):
    network, call, _ = network
    random_weights(network)
    assert network.get_layer("label_embedding").input_dim == 4
    outputs = [call([X, T, np.full(3, label, "int32")]) for label in range(4)]
    assert min(np.abs(one - other).max() for one, other in combinations(outputs, 2)) > 1e-3


def test_bfloat16_keeps_the_timestep_exact_and_the_output_float32():
    """Of a network for images that are not square."""
    options = {"image_size": (6, 10), "downsample_padding": "both", "dtype": "mixed_bfloat16"}
    network = random_weights(small(**options))
    call, x = compiled(network), np.ones((2, 6, 10, 1), "float32")
    output = call([x, np.int32([998, 999])])
    assert output.dtype == np.float32 and output.shape == x.shape and np.isfinite(output).all()
    assert np.abs(output[0] - output[1]).max() > 1e-3
    float32 = {layer.name for layer in network.layers if layer.compute_dtype == "float32"}
    assert float32 & {"time_embedding", "conv_out", "conv_in"} == {"time_embedding", "conv_out"}


@pytest.mark.once
def test_seeds_of_dropout_differ_and_follow_from_the_random_seed():
    def seeds():
        keras.utils.set_random_seed(4)
        return [block.dropout.seed for block in blocks(small(dropout=0.5), ResidualBlock)]

    first = seeds()
    assert first == seeds()
    assert None not in first and len(set(first)) == len(first) == 8


@pytest.mark.once
def test_options_reach_every_block():
    network = small(
        widths=(8, 16), has_attention=(True, True), head_dim=4, norm_epsilon=1e-3, num_res_blocks=2
    )
    residual, attention = (blocks(network, kind) for kind in (ResidualBlock, SelfAttention))
    assert (len(residual), len(attention)) == (2 * 2 + 2 + 2 * 3, 2 * 2 + 1 + 2 * 3)
    assert {(a.num_heads, a.norm.gamma.shape[0]) for a in attention} == {(2, 8), (4, 16)}
    norms = [network.get_layer("norm_out")] + [a.norm for a in attention]
    norms += [norm for block in residual for norm in (block.norm_1, block.norm_2)]
    assert {(norm.epsilon, norm.groups) for norm in norms} == {(1e-3, 4)}
    defaults = UNet(8, widths=(8,), has_attention=(False,), cosine_first=True, freq_shift=0)
    assert defaults.get_layer("norm_out").epsilon == 1e-6
    time = defaults.get_layer("time_embedding")
    assert (time.cosine_first, time.freq_shift) == (True, 0)


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 2, "num_heads": 2, "dropout": 0.1, "remat": True, "name": "flowers"},
        {
            "image_size": (4, 6),
            "head_dim": 4,
            "dtype": "mixed_bfloat16",
            "downsample_padding": "both",
            "cosine_first": True,
            "freq_shift": 0,
            "norm_epsilon": 1e-5,
        },
    ],
)
def test_the_config_holds_the_arguments_and_gives_the_same_network(options):
    network = small(**options)
    for name, value in options.items():
        assert network.get_config()[name] == value
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    again = keras.saving.deserialize_keras_object(described)
    assert type(again) is UNet and again.get_config() == network.get_config()
    weights = [[(w.path, w.shape) for w in one.weights] for one in (network, again)]
    assert weights[0] == weights[1]
    assert again.dtype_policy.name == options.get("dtype", "float32")


@pytest.mark.parametrize("size, patch_size", [((8, 12), 2), ((12, 6), 3)])
def test_patches_become_pixels_and_again_patches(size, patch_size):
    """In a network that computes nothing but a convolution of one pixel."""
    options = {"widths": (64,), "has_attention": (False,), "norm_groups": 1}
    network = small(image_size=size, channels=3, patch_size=patch_size, **options)
    height, width = (side // patch_size for side in size)
    assert network.get_layer("conv_in").output.shape == (None, height, width, 64)
    assert network.output.shape == (None, *size, 3)
    assert UNet.from_config(network.get_config()).get_config() == network.get_config()
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype("float32")
    patches = ops.convert_to_numpy(to_patches(x, patch_size))
    i, j = 1, 0
    patch = x[:, i * patch_size : (i + 1) * patch_size, j * patch_size : (j + 1) * patch_size]
    np.testing.assert_array_equal(patches[:, i, j], patch.reshape(2, -1))
    np.testing.assert_array_equal(from_patches(patches, patch_size), x)


@pytest.mark.once
def test_an_image_of_no_whole_patches_is_refused():
    with pytest.raises(ValueError, match="divisible by 6.*patch_size is 3.*12 and 18"):
        small(image_size=16, patch_size=3)
