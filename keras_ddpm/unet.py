"""The U-Net of Ho et al. (2020), appendix B, built with the functional API."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_ddpm.backend import Conv2D, GroupNormalization
from keras_ddpm.described import Described
from keras_ddpm.layers import (
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    VarianceScaling,
    choose_policy,
)
from keras_ddpm.validation import check_bool, check_choice, check_int, check_number, check_size


@keras.saving.register_keras_serializable("keras_ddpm")
class UNet(Described, keras.Model):
    """The network that predicts the noise in a noisy image.

    Level i works at `1 / 2**i` of the image size with `widths[i]` channels. In the encoder each
    level has `num_res_blocks` residual blocks, in the decoder one more, and each of these takes one
    skip connection. Call it as `network([x_t, t])`, `network([x_t, t, label])`,
    `network([x_t, t, condition])` or `network([x_t, t, label, condition])`.

    Inputs: `x_t` float `(batch, height, width, channels)`, `t` int32 `(batch,)`, with classes
    `label` int32 `(batch,)`, and with `condition_channels` `condition` float
    `(batch, height, width, condition_channels)`. Output: float32 like `x_t`, zero before training.

    Args:
        image_size: int or (height, width), divisible by `2 ** (len(widths) - 1)`.
        channels: int, 1 for grey images, 3 for RGB.
        widths: channels of each level, divisible by `norm_groups`, e.g. [64, 128, 256].
        has_attention: for each level, whether self-attention follows its blocks.
        num_res_blocks: residual blocks of a level.
        norm_groups: groups of each GroupNormalization (the paper: 32).
        norm_epsilon: epsilon of each GroupNormalization.
        num_heads: attention heads, the same number at every level.
        head_dim: channels of a head, instead of `num_heads`.
        dropout: rate in [0, 1) inside the residual blocks (the paper's CIFAR-10: 0.1).
        num_classes: optional int. Labels are 0 … num_classes − 1; the label `num_classes` means
            "no label".
        condition_channels: optional int, channels of an image that the output depends on, such as
            a smaller or a grey one. It is concatenated to x_t; all zeros mean "no condition".
        downsample_padding: where a convolution that halves the size pads: `"end"`, below and on
            the right (Ho et al.'s code), or `"both"`, one pixel on all sides (most of diffusers').
        cosine_first: whether the cosines of the time embedding come before the sines.
        freq_shift: see `TimeEmbedding`.
        patch_size: pixels of a patch along one side. Above 1, the channels of each patch become
            those of one pixel before the first convolution, and again a patch after the last one,
            so that the first level works at `1 / patch_size` of the image size and a step takes a
            fraction of the time: Hoogeboom et al. (2023), "simple diffusion".
        remat: whether the blocks are computed again for the gradient instead of being kept in
            memory (`keras.remat`). XLA for CPUs keeps them all the same.
        dtype: optional dtype policy of the layers; None is Keras' global one.

    >>> network = UNet(32, widths=(128, 256, 256, 256), norm_groups=32,
    ...                has_attention=(False, True, False, False))
    >>> network.count_params()  # Ho et al.'s CIFAR-10 network
    35746307
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        has_attention: Sequence[bool] = (False, False, True, True),
        num_res_blocks: int = 2,
        norm_groups: int = 8,
        norm_epsilon: float = 1e-6,
        num_heads: int = 1,
        head_dim: int | None = None,
        dropout: float = 0.0,
        num_classes: int | None = None,
        condition_channels: int | None = None,
        downsample_padding: str = "end",
        cosine_first: bool = False,
        freq_shift: int = 1,
        patch_size: int = 1,
        remat: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "unet",
    ):
        config = {
            "image_size": check_size("image_size", image_size),
            "channels": check_int("channels", channels),
            "widths": _check_levels("widths", widths, check_int),
            "has_attention": _check_levels("has_attention", has_attention, check_bool),
            "num_res_blocks": check_int("num_res_blocks", num_res_blocks),
            "norm_groups": check_int("norm_groups", norm_groups),
            "norm_epsilon": check_number("norm_epsilon", norm_epsilon, "(0, inf)"),
            "num_heads": check_int("num_heads", num_heads),
            "head_dim": None if head_dim is None else check_int("head_dim", head_dim),
            "dropout": check_number("dropout", dropout, "[0, 1)"),
            "num_classes": None if num_classes is None else check_int("num_classes", num_classes),
            "condition_channels": None
            if condition_channels is None
            else check_int("condition_channels", condition_channels),
            "downsample_padding": check_choice(
                "downsample_padding", downsample_padding, ("end", "both")
            ),
            "cosine_first": check_bool("cosine_first", cosine_first),
            "freq_shift": check_int("freq_shift", freq_shift, 0, 1),
            "patch_size": check_int("patch_size", patch_size),
            "remat": check_bool("remat", remat),
        }
        _check_sizes(**config)
        policy = choose_policy(dtype)
        inputs, outputs = _build(policy, **config)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy, self.config, self.remat = policy, config, remat

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**self.config, "dtype": self.dtype_policy.name, "name": self.name}


def _build(policy, image_size, channels, widths, has_attention, num_res_blocks, **config):
    """The inputs and the output of the network."""
    block_options = {key: config[key] for key in ("norm_groups", "norm_epsilon", "remat")}
    block_options["dtype"] = policy

    def conv(width, name, initializer=None, **kwargs):
        initializer = initializer or VarianceScaling()
        options = {"padding": "same", "dtype": policy, "kernel_initializer": initializer}
        options["data_format"] = "channels_last"  # whatever Keras' global setting is
        return Conv2D(width, 3, name=name, **{**options, **kwargs})

    def dense(width, name):
        initializer = VarianceScaling()
        return layers.Dense(width, kernel_initializer=initializer, dtype=policy, name=name)

    def residual_block(x, width, name):
        block = ResidualBlock(width, dropout=config["dropout"], name=name, **block_options)
        return block([x, time])

    def attention(x, name):
        head_dim = config["head_dim"]
        num_heads = x.shape[-1] // head_dim if head_dim else config["num_heads"]
        return SelfAttention(num_heads, name=name, **block_options)(x)

    def halve(x, width, name):
        if config["downsample_padding"] == "end":
            return conv(width, name, strides=2)(x)
        x = layers.ZeroPadding2D(1, "channels_last", dtype=policy)(x)
        return conv(width, name, strides=2, padding="valid")(x)

    x_t = keras.Input((*image_size, channels), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs, width = [x_t, t], widths[0]

    time = TimeEmbedding(width, config["cosine_first"], config["freq_shift"], name="time_embedding")
    time = ops.silu(dense(4 * width, "time_dense_1")(time(t)))
    time = dense(4 * width, "time_dense_2")(time)
    if (num_classes := config["num_classes"]) is not None:
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        # Keras' default, ±0.05, is small beside the embedding of t, so labels are learned later.
        options = {"embeddings_initializer": keras.initializers.RandomNormal(stddev=1.0)}
        options |= {"dtype": policy, "name": "label_embedding"}
        time = time + layers.Embedding(num_classes + 1, 4 * width, **options)(label)
    time = ops.silu(time)

    levels = list(zip(widths, has_attention))
    seen = x_t
    if (condition_channels := config["condition_channels"]) is not None:
        condition = keras.Input((*image_size, condition_channels), name="condition")
        inputs.append(condition)
        seen = ops.concatenate([x_t, condition], axis=-1)  # Saharia et al. (2021), section 2.4
    x = conv(width, "conv_in")(to_patches(seen, config["patch_size"]))
    skips = [x]
    for level, (width, attends) in enumerate(levels):
        for i in range(num_res_blocks):
            x = residual_block(x, width, f"down_{level}_block_{i}")
            if attends:
                x = attention(x, f"down_{level}_attention_{i}")
            skips.append(x)
        if level < len(levels) - 1:
            x = halve(x, width, f"down_{level}_halve")
            skips.append(x)

    x = residual_block(x, width, "middle_block_0")
    x = attention(x, "middle_attention_0")
    x = residual_block(x, width, "middle_block_1")

    for level, (width, attends) in reversed(list(enumerate(levels))):
        for i in range(num_res_blocks + 1):
            x = layers.Concatenate(dtype=policy)([x, skips.pop()])
            x = residual_block(x, width, f"up_{level}_block_{i}")
            if attends:
                x = attention(x, f"up_{level}_attention_{i}")
        if level > 0:
            x = layers.UpSampling2D(2, "channels_last", dtype=policy)(x)
            x = conv(width, f"up_{level}_double")(x)

    norm_groups, norm_epsilon = config["norm_groups"], config["norm_epsilon"]
    norm = GroupNormalization(norm_groups, epsilon=norm_epsilon, dtype=policy, name="norm_out")
    # float32 under any dtype policy: the loss is a small difference of nearly equal numbers.
    patch_size = config["patch_size"]
    options = {"initializer": "zeros", "dtype": "float32"}
    x = conv(channels * patch_size**2, "conv_out", **options)(ops.silu(norm(x)))
    return inputs, from_patches(x, patch_size)


def to_patches(x, size):
    """`(batch, height, width, c)` as `(batch, height / size, width / size, size² c)`."""
    if size == 1:
        return x
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // size, size, width // size, size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // size, width // size, size**2 * channels))


def from_patches(x, size):
    """The inverse of `to_patches`."""
    if size == 1:
        return x
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, size, size, channels // size**2))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * size, width * size, channels // size**2))


def _check_levels(argument, values, check):
    """One entry for each level, as a tuple."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{argument}={values!r} must be a list with one entry for each level.")
    return tuple(check(argument, value) for value in values)


def _check_sizes(
    image_size, widths, has_attention, norm_groups, num_heads, head_dim, patch_size, **_
):
    if not widths or len(widths) != len(has_attention):
        raise ValueError(
            f"widths={widths} and has_attention={has_attention} must have one entry for each "
            f"level, but have {len(widths)} and {len(has_attention)}."
        )
    if wrong := [width for width in widths if width % norm_groups]:
        raise ValueError(
            f"widths={widths} must be divisible by norm_groups={norm_groups}; {wrong[0]} is not."
        )
    if widths[0] < 4 or widths[0] % 2:
        raise ValueError(
            f"widths[0]={widths[0]} must be even and at least 4: time is embedded in it."
        )
    patches = f", and patch_size is {patch_size}" if patch_size > 1 else ""
    factor = patch_size * 2 ** (len(widths) - 1)
    for side in image_size:
        if side % factor:
            raise ValueError(
                f"image_size={image_size} must be divisible by {factor}, because {len(widths)} "
                f"widths halve it {len(widths) - 1} times{patches}. The nearest sizes are "
                f"{max(side // factor, 1) * factor} and {(side // factor + 1) * factor}."
            )
    if head_dim is not None and num_heads != 1:
        raise ValueError(f"num_heads={num_heads} and head_dim={head_dim} exclude each other.")
    name, divisor = ("head_dim", head_dim) if head_dim else ("num_heads", num_heads)
    attending = [width for width, attends in zip(widths, has_attention) if attends]
    if wrong := [width for width in [*attending, widths[-1]] if width % divisor]:
        raise ValueError(
            f"{name}={divisor} must divide the width of each level with attention and of the "
            f"last level; it does not divide {wrong[0]}."
        )
