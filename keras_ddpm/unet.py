"""The U-Net of Ho et al. (2020), appendix B, with the functional API."""

import random

import keras
from keras import layers

from keras_ddpm.initializers import VarianceScaling
from keras_ddpm.layers import (
    Conv2D,
    GroupNormalization,
    SelfAttention,
    TimeEmbedding,
)
from keras_ddpm.validation import check_choice, check_fraction, check_positive_int


def build_unet(
    image_size,
    channels=3,
    widths=(64, 128, 256, 512),
    has_attention=(False, False, True, True),
    num_res_blocks=2,
    norm_groups=8,
    norm_epsilon=1e-6,
    num_heads=1,
    head_dim=None,
    dropout=0.0,
    num_classes=None,
    downsample_padding="end",
    cosine_first=False,
    freq_shift=1,
    name="unet",
):
    """Builds the network that looks at a noisy image and says what the noise is.

    Level i works at `1 / 2**i` of the image size with `widths[i]` channels. Going down, each
    level has `num_res_blocks` residual blocks; going up, one more, and each takes over one
    skip connection. Inputs: `x_t` `(batch, height, width, channels)` float, `t` `(batch,)`
    int32, and with classes `label` `(batch,)` int32. Output: float32 like `x_t`.

    Args:
        image_size: int or (height, width), divisible by `2 ** (len(widths) - 1)`.
        channels: int, 1 for grey images, 3 for RGB.
        widths: ints, channels of each level, divisible by `norm_groups`.
        has_attention: bools, whether a level's blocks are followed by self-attention.
        num_res_blocks: int, residual blocks a level.
        norm_groups: int, groups of each GroupNormalization (the paper: 32).
        norm_epsilon: float, its epsilon.
        num_heads: int, attention heads, the same at every level.
        head_dim: optional int, channels of a head, instead of `num_heads`.
        dropout: float in [0, 1), inside the residual blocks (the paper's CIFAR-10: 0.1).
        num_classes: optional int. Labels are 0 … num_classes − 1; the label `num_classes`
            means "no label".
        downsample_padding: str, where a convolution that halves the size pads: `"end"`, below and
            on the right (Ho et al.'s code), or `"both"`, a pixel on all sides (most of diffusers').
        cosine_first: bool, whether the cosines of the time embedding come before the sines.
        freq_shift: int, see `TimeEmbedding`.
        name: str, the model's name.

    Returns:
        A functional `keras.Model`, called as `network([x_t, t])` or `network([x_t, t, label])`.

    Raises:
        ValueError: where sizes do not fit each other.

    Example:

    >>> network = build_unet(32, widths=(128, 256, 256, 256), norm_groups=32,
    ...                      has_attention=(False, True, False, False))
    >>> network.count_params()  # Ho et al.'s CIFAR-10 network
    35746307
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check_sizes(height, width, widths, has_attention, norm_groups, num_heads, head_dim)
    check_positive_int("channels", channels)
    check_positive_int("num_res_blocks", num_res_blocks)
    check_fraction("dropout", dropout)
    check_choice("downsample_padding", downsample_padding, ("end", "both"))

    def conv(width, name, kernel_size=3, initializer=None, **kwargs):
        initializer = initializer or VarianceScaling()
        kwargs = {"padding": "same", "kernel_initializer": initializer, **kwargs}
        return Conv2D(width, kernel_size, name=name, **kwargs)

    def dense(width, name, **kwargs):
        return layers.Dense(width, kernel_initializer=VarianceScaling(), name=name, **kwargs)

    def norm(name, activation=None):
        return GroupNormalization(norm_groups, activation, epsilon=norm_epsilon, name=name)

    def residual_block(x, width, name):
        matches = x.shape[-1] == width
        shortcut = x if matches else conv(width, f"{name}_shortcut", kernel_size=1)(x)
        x = norm(f"{name}_norm_1", "swish")(x)
        x = conv(width, f"{name}_conv_1")(x)
        shift = dense(width, f"{name}_time")(time)
        x = layers.Add()([x, layers.Reshape((1, 1, width))(shift)])
        x = norm(f"{name}_norm_2", "swish")(x)
        if dropout:
            # Without a seed, torch's Dropout draws from a global generator that no file saves.
            x = layers.Dropout(dropout, seed=random.randrange(2**31))(x)
        # Starts at zero, so that every block starts as the identity.
        return layers.Add()([shortcut, conv(width, f"{name}_conv_2", initializer="zeros")(x)])

    def attention_block(x, name):
        heads = x.shape[-1] // head_dim if head_dim else num_heads
        attended = SelfAttention(heads, name=name)(norm(f"{name}_norm")(x))
        return layers.Add()([x, attended])  # added to x, not to the normed one

    def halve(x, width, name):
        if downsample_padding == "end":
            return conv(width, name, strides=2)(x)
        return conv(width, name, strides=2, padding="valid")(layers.ZeroPadding2D(1)(x))

    x_t = keras.Input((height, width, channels), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs = [x_t, t]

    time = TimeEmbedding(widths[0], cosine_first, freq_shift, name="time_embedding")(t)
    time = dense(4 * widths[0], "time_dense_1", activation="swish")(time)
    time = dense(4 * widths[0], "time_dense_2")(time)
    if num_classes is not None:
        check_positive_int("num_classes", num_classes)
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        embedding = layers.Embedding(num_classes + 1, 4 * widths[0], name="label_embedding")
        time = layers.Add()([time, embedding(label)])
    time = keras.activations.swish(time)

    levels = list(zip(widths, has_attention))
    x = conv(widths[0], "conv_in")(x_t)
    skips = [x]
    for level, (width, attends) in enumerate(levels):
        for i in range(num_res_blocks):
            x = residual_block(x, width, f"down_{level}_block_{i}")
            if attends:
                x = attention_block(x, f"down_{level}_attention_{i}")
            skips.append(x)
        if level < len(levels) - 1:
            x = halve(x, width, f"down_{level}_halve")
            skips.append(x)

    x = residual_block(x, widths[-1], "middle_block_0")
    x = attention_block(x, "middle_attention_0")
    x = residual_block(x, widths[-1], "middle_block_1")

    for level, (width, attends) in reversed(list(enumerate(levels))):
        for i in range(num_res_blocks + 1):
            x = layers.Concatenate()([x, skips.pop()])
            x = residual_block(x, width, f"up_{level}_block_{i}")
            if attends:
                x = attention_block(x, f"up_{level}_attention_{i}")
        if level > 0:
            x = layers.UpSampling2D(2, interpolation="nearest")(x)
            x = conv(width, f"up_{level}_double")(x)

    x = norm("norm_out", "swish")(x)
    # float32 output under any dtype policy: the loss is a small difference of close numbers.
    x = conv(channels, "conv_out", initializer="zeros", dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def _check_sizes(height, width, widths, has_attention, norm_groups, num_heads, head_dim):
    if len(widths) < 1 or len(widths) != len(has_attention):
        raise ValueError(
            f"widths={tuple(widths)} and has_attention={tuple(has_attention)} must have one "
            f"entry a level, but have {len(widths)} and {len(has_attention)}."
        )
    check_positive_int("norm_groups", norm_groups)
    for level_width in widths:
        check_positive_int("widths", level_width)
        if level_width % norm_groups:
            raise ValueError(
                f"widths={tuple(widths)} must all be divisible by norm_groups={norm_groups}; "
                f"{level_width} is not."
            )
    factor = 2 ** (len(widths) - 1)
    for side in (height, width):
        check_positive_int("image_size", side)
        if side % factor:
            raise ValueError(
                f"image_size={(height, width)} must be divisible by {factor}, because "
                f"{len(widths)} widths halve it {len(widths) - 1} times; the nearest sizes are "
                f"{max(side // factor, 1) * factor} and {(side // factor + 1) * factor}."
            )
    check_positive_int("num_heads", num_heads)
    if head_dim is not None:
        check_positive_int("head_dim", head_dim)
        if num_heads != 1:
            raise ValueError(f"give num_heads={num_heads} or head_dim={head_dim}, not both.")
    attending = [w for w, attends in zip(widths, has_attention) if attends] + [widths[-1]]
    for level_width in attending:
        if level_width % (head_dim or num_heads):
            raise ValueError(
                f"widths={tuple(widths)}: a level with attention must be divisible by "
                f"{'head_dim' if head_dim else 'num_heads'}={head_dim or num_heads}; "
                f"{level_width} is not."
            )
    if widths[0] < 4 or widths[0] % 2:
        raise ValueError(
            f"widths[0]={widths[0]} must be even and at least 4: it sizes the time embedding."
        )
