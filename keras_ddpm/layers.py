"""The layers of the networks: time embedding, residual block, self-attention."""

import math
import random

import keras
import numpy as np
from keras import layers, ops

from keras_ddpm.backend import Conv2D, GroupNormalization, dot_product_attention
from keras_ddpm.validation import check_bool, check_int, check_number


def choose_policy(dtype, argument="dtype"):
    """The dtype policy that an argument names; None is Keras' global one."""
    try:
        return keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
    except (TypeError, ValueError):
        raise ValueError(
            f"{argument}={dtype!r} must be a dtype policy, such as 'float32', 'mixed_bfloat16' or "
            "'mixed_float16'."
        ) from None


@keras.saving.register_keras_serializable("keras_ddpm")
class VarianceScaling(keras.initializers.VarianceScaling):
    """Ho et al.'s initialiser: `keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform")`.

    The numbers come from NumPy, so a seed gives the same weights on every backend, and JAX does
    not compile a program for each shape. A seed of None follows `keras.utils.set_random_seed`.

    >>> tuple(VarianceScaling(seed=0)((3, 3, 8, 16)).shape)
    (3, 3, 8, 16)
    """

    def __init__(self, seed=None):
        seed = None if seed is None else check_int("seed", seed, minimum=0)
        super().__init__(1.0, mode="fan_avg", distribution="uniform", seed=seed)

    def __call__(self, shape, dtype=None):
        """Weights `(..., inputs, outputs)` of a dense layer or a convolution."""
        if not isinstance(shape, tuple | list) or len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"shape={shape} must be (..., inputs, outputs) without an empty axis.")
        fan_average = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
        # A uniform distribution on [-limit, limit) has the variance limit² / 3.
        limit = math.sqrt(3 / fan_average)
        numbers = np.random.default_rng(self.seed).random(shape, "float32")
        return ops.convert_to_tensor(limit * (2 * numbers - 1), dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


@keras.saving.register_keras_serializable("keras_ddpm")
class TimeEmbedding(layers.Layer):
    """Sinusoidal embedding of the timestep: Vaswani et al. (2017), as Ho et al. (2020) use it.

    Input: int32 `(batch,)`. Output: float32 `(batch, dim)`, first the sines, then the cosines
    of t · 10000^(−i / (dim/2 − freq_shift)). It is float32 under any dtype policy, because bfloat16
    has no 999.

    Args:
        dim: even int >= 4, the size of the embedding.
        cosine_first: bool, whether the cosines come first (diffusers: `flip_sin_to_cos`).
        freq_shift: 1, so that the last frequency is 1 / 10000 (Ho et al.), or 0.

    >>> tuple(TimeEmbedding(8)(np.array([0, 999])).shape)
    (2, 8)
    """

    def __init__(self, dim, cosine_first=False, freq_shift=1, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.dim = check_int("dim", dim, minimum=4)
        if dim % 2:
            raise ValueError(f"dim={dim} must be even.")
        self.cosine_first = check_bool("cosine_first", cosine_first)
        self.freq_shift = check_int("freq_shift", freq_shift, 0, 1)

    def call(self, t):
        half = self.dim // 2
        frequencies = 10000.0 ** (-np.arange(half) / (half - self.freq_shift))
        frequencies = ops.convert_to_tensor(frequencies.astype("float32"))
        angles = ops.expand_dims(ops.cast(t, "float32"), -1) * frequencies
        waves = [ops.sin(angles), ops.cos(angles)]
        return ops.concatenate(waves[::-1] if self.cosine_first else waves, axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)

    def get_config(self):
        own = {"cosine_first": self.cosine_first, "freq_shift": self.freq_shift}
        return {**super().get_config(), "dim": self.dim, **own}


class _Block(layers.Layer):
    """A layer made of others, which share its dtype policy and its normalisation.

    With `remat`, what `compute` computes is computed again for the gradient instead of being kept.
    It must not draw random numbers: the second ones would be others.
    """

    def __init__(self, norm_groups=32, norm_epsilon=1e-6, remat=False, **kwargs):
        super().__init__(**kwargs)
        self.norm_groups = check_int("norm_groups", norm_groups)
        self.norm_epsilon = check_number("norm_epsilon", norm_epsilon, "(0, inf)")
        self.remat = check_bool("remat", remat)

    def run(self, *inputs):
        return (keras.remat(self.compute) if self.remat else self.compute)(*inputs)

    def make(self, layer_class, input_shape, *args, **kwargs):
        """Makes one of the parts, and builds it."""
        layer = layer_class(*args, dtype=self.dtype_policy, **kwargs)
        layer.build(input_shape)
        return layer

    def make_norm(self, name, input_shape):
        if input_shape[-1] % self.norm_groups:
            raise ValueError(
                f"norm_groups={self.norm_groups} must divide the {input_shape[-1]} channels."
            )
        options = {"epsilon": self.norm_epsilon, "name": name}
        return self.make(GroupNormalization, input_shape, self.norm_groups, **options)

    def get_config(self):
        own = {"norm_groups": self.norm_groups, "norm_epsilon": self.norm_epsilon}
        return {**super().get_config(), **own, "remat": self.remat}


@keras.saving.register_keras_serializable("keras_ddpm")
class ResidualBlock(_Block):
    """Two convolutions with a shift from the time embedding between them: Ho et al., appendix B.

    x + conv(swish(norm(conv(swish(norm(x))) + dense(time)))). Where the number of channels
    changes, a 1×1 convolution of x takes the place of x. The last convolution starts at zero, so
    that the block starts as the identity.

    Input: `[x, time]`, `(batch, height, width, channels)` and `(batch, features)`.
    Output: `(batch, height, width, width_out)` with `width_out` channels.

    Args:
        width: int, channels of the output.
        norm_groups: int, groups of each GroupNormalization.
        norm_epsilon: float, epsilon of each GroupNormalization.
        dropout: float in [0, 1), before the last convolution.
        remat: bool, whether to compute it again for the gradient instead of keeping it in memory.
    """

    def __init__(
        self, width, norm_groups=32, norm_epsilon=1e-6, dropout=0.0, remat=False, **kwargs
    ):
        super().__init__(norm_groups, norm_epsilon, remat, **kwargs)
        self.width = check_int("width", width)
        self.rate = check_number("dropout", dropout, "[0, 1)")

    def build(self, input_shape):
        x_shape, time_shape = input_shape
        inner_shape = (*x_shape[:-1], self.width)

        def conv(name, input_shape, kernel_size=3, initializer=None):
            initializer = initializer or VarianceScaling()
            options = {"padding": "same", "kernel_initializer": initializer, "name": name}
            options["data_format"] = "channels_last"  # whatever Keras' global setting is
            return self.make(Conv2D, input_shape, self.width, kernel_size, **options)

        self.shortcut = None
        if x_shape[-1] != self.width:
            self.shortcut = conv("shortcut", x_shape, kernel_size=1)
        self.norm_1 = self.make_norm("norm_1", x_shape)
        self.conv_1 = conv("conv_1", x_shape)
        options = {"kernel_initializer": VarianceScaling(), "name": "time"}
        self.time = self.make(layers.Dense, time_shape, self.width, **options)
        self.norm_2 = self.make_norm("norm_2", inner_shape)
        # Without a seed, PyTorch's Dropout uses a global generator that no file saves.
        seed = random.randrange(2**31) if self.rate else None
        self.dropout = layers.Dropout(self.rate, seed=seed, dtype=self.dtype_policy)
        self.conv_2 = conv("conv_2", inner_shape, initializer="zeros")

    def call(self, inputs, training=False):
        x, time = inputs
        if not (self.rate and training):
            return self.run(x, time)
        ones = ops.ones((ops.shape(x)[0], *x.shape[1:-1], self.width), self.compute_dtype)
        return self.run(x, time, self.dropout(ones, training=True))

    def compute(self, x, time, mask=None):
        h = self.conv_1(ops.silu(self.norm_1(x)))
        h = h + ops.reshape(self.time(time), (-1, 1, 1, self.width))
        h = ops.silu(self.norm_2(h))
        if mask is not None:
            h = h * mask
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return shortcut + self.conv_2(h)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "dropout": self.rate}


@keras.saving.register_keras_serializable("keras_ddpm")
class SelfAttention(_Block):
    """Attention among the pixels of an image: x + dense(softmax(q kᵀ / √d) v) of norm(x).

    The residual connection adds x, not norm(x), as in Ho et al. The last layer starts at zero, so
    that the block starts as the identity. The softmax is float32 under any dtype policy.

    Input and output: `(batch, height, width, channels)`.

    Args:
        num_heads: int, must divide the number of channels.
        norm_groups, norm_epsilon, remat: as for `ResidualBlock`.
    """

    def __init__(self, num_heads=1, norm_groups=32, norm_epsilon=1e-6, remat=False, **kwargs):
        super().__init__(norm_groups, norm_epsilon, remat, **kwargs)
        self.num_heads = check_int("num_heads", num_heads)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide the {channels} channels.")

        def dense(name, initializer):
            options = {"kernel_initializer": initializer, "name": name}
            return self.make(layers.Dense, input_shape, channels, **options)

        self.norm = self.make_norm("norm", input_shape)
        self.query = dense("query", VarianceScaling())
        self.key = dense("key", VarianceScaling())
        self.value = dense("value", VarianceScaling())
        self.projection = dense("projection", "zeros")

    def call(self, x):
        return self.run(x)

    def compute(self, x):
        _, height, width, channels = x.shape
        heads = (-1, height * width, self.num_heads, channels // self.num_heads)
        normed = self.norm(x)
        attended = dot_product_attention(
            ops.reshape(self.query(normed), heads),
            ops.reshape(self.key(normed), heads),
            ops.reshape(self.value(normed), heads),
        )
        return x + self.projection(ops.reshape(attended, (-1, height, width, channels)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}
