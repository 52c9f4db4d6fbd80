"""Layers that Keras does not have, a time embedding and attention on images, or not as quick."""

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import arrange_kernel, attend, convolve, group_norm
from keras_ddpm.initializers import VarianceScaling


@keras.saving.register_keras_serializable("keras_ddpm")
class TimeEmbedding(keras.layers.Layer):
    """Sinusoidal embedding of the timestep: Vaswani et al. (2017), as Ho et al. (2020) use it.

    Input: int32 `(batch,)`. Output: float32 `(batch, dim)`, first the sines, then the cosines
    of t · 10000^(−i / (dim/2 − freq_shift)). Always float32: bfloat16 cannot count to 999.

    Args:
        dim: even int >= 4, the size of the embedding.
        cosine_first: bool, whether the cosines come first.
        freq_shift: 1, so that the last frequency is 1 / 10000 (Ho et al.), or 0.
    """

    def __init__(self, dim, cosine_first=False, freq_shift=1, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if dim < 4 or dim % 2:
            raise ValueError(f"dim must be an even number of at least 4, got {dim}.")
        if freq_shift not in (0, 1):
            raise ValueError(f"freq_shift must be 0 or 1, got {freq_shift!r}.")
        self.dim, self.cosine_first, self.freq_shift = dim, cosine_first, freq_shift

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


@keras.saving.register_keras_serializable("keras_ddpm")
class SelfAttention(keras.layers.Layer):
    """Every pixel looks at every other: softmax(q kᵀ / √d) v, then a projection.

    The projection starts at zero, so that a residual connection around the layer is the
    identity at first. Keras computes the softmax in float32 under any dtype policy.

    Input and output: `(batch, height, width, channels)`.

    Args:
        num_heads: int, must divide the number of channels.
    """

    def __init__(self, num_heads=1, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide the {channels} channels.")

        def dense(name, initializer):
            layer = keras.layers.Dense(
                channels, kernel_initializer=initializer, dtype=self.dtype_policy, name=name
            )
            layer.build(input_shape)
            return layer

        self.query = dense("query", VarianceScaling())
        self.key = dense("key", VarianceScaling())
        self.value = dense("value", VarianceScaling())
        self.projection = dense("projection", "zeros")

    def call(self, x):
        _, height, width, channels = x.shape
        heads = (-1, height * width, self.num_heads, channels // self.num_heads)
        attended = attend(
            ops.reshape(self.query(x), heads),
            ops.reshape(self.key(x), heads),
            ops.reshape(self.value(x), heads),
        )
        return self.projection(ops.reshape(attended, (-1, height, width, channels)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable("keras_ddpm")
class GroupNormalization(keras.layers.GroupNormalization):
    """What `keras.layers.GroupNormalization` computes, quicker: Wu & He (2018).

    Statistics are float32 under any dtype policy. Arguments and weights are those of the Keras
    layer, and one argument more.

    Input and output: `(batch, height, width, channels)`.

    Args:
        activation: of the result, as other layers of Keras have it; None for none. "swish" costs
            less here than after the layer.
    """

    def __init__(self, groups=32, activation=None, **kwargs):
        super().__init__(groups, **kwargs)
        self.activation = keras.activations.get(activation)

    def call(self, x):
        gamma, beta = self.gamma if self.scale else None, self.beta if self.center else None
        swish = self.activation is keras.activations.swish
        x = group_norm(x, self.groups, gamma, beta, self.epsilon, swish)
        x = ops.cast(x, self.compute_dtype)
        return x if swish else self.activation(x)

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable("keras_ddpm")
class Conv2D(keras.layers.Conv2D):
    """What `keras.layers.Conv2D` computes, on PyTorch without the copies that Keras 3.15 makes.

    Arguments and weights are those of the Keras layer; the channels come last.

    Input and output: `(batch, height, width, channels)`.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **{**kwargs, "data_format": "channels_last"})

    def build(self, input_shape):
        super().build(input_shape)
        arrange_kernel(self.kernel)

    def call(self, x):
        bias = self.bias if self.use_bias else None
        x = convolve(x, self.kernel, bias, self.strides, self.padding, self.dilation_rate)
        return x if self.activation is None else self.activation(x)
