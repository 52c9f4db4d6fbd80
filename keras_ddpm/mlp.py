"""A small network for points instead of images."""

from typing import Any

import keras
from keras import layers, ops

from keras_ddpm.described import Described
from keras_ddpm.layers import TimeEmbedding, VarianceScaling, choose_policy
from keras_ddpm.validation import check_int

# Without its sines the network blurs details that are finer than the noise: Tancik et al. (2020),
# "Fourier Features Let Networks Learn High Frequency Functions". In radians a unit.
FREQUENCIES = (1, 2, 4, 8)


@keras.saving.register_keras_serializable("keras_ddpm")
class MLP(Described, keras.Model):
    """The network that predicts the noise in noisy points.

    It takes the coordinates and sines of them, through `depth` residual blocks of two dense layers
    each. Timestep and label enter every block. Call it as `network([x_t, t])` or
    `network([x_t, t, label])`.

    Inputs: `x_t` float `(batch, features)` with a standard deviation of about 1, `t` int32
    `(batch,)`, and with classes `label` int32 `(batch,)`. Output: float32 like `x_t`, zero before
    training.

    Args:
        features: int >= 1, coordinates of a point.
        width: even int >= 4, units of the hidden layers.
        depth: int >= 1, residual blocks.
        num_classes: optional int >= 1. Labels are 0 … num_classes − 1; the label `num_classes`
            means "no label".
        dtype: optional dtype policy of the layers; None is Keras' global one.

    ```python
    points = np.random.default_rng(0).normal(size=(1000, 2)).astype("float32")
    model = DiffusionModel(MLP(), GaussianDiffusion())
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(points, batch_size=256, epochs=5)
    samples = model.generate(1000)
    ```
    """

    def __init__(
        self,
        features: int = 2,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "mlp",
    ):
        config = {
            "features": check_int("features", features),
            "width": check_int("width", width, minimum=4),
            "depth": check_int("depth", depth),
            "num_classes": None if num_classes is None else check_int("num_classes", num_classes),
        }
        if width % 2:
            raise ValueError(f"width={width} must be even: the time embedding has this size.")
        policy = choose_policy(dtype)
        inputs, outputs = _build(policy, **config)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy, self.config = policy, config

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**self.config, "dtype": self.dtype_policy.name, "name": self.name}


def _build(policy, features, width, depth, num_classes):
    """The inputs and the output of the network."""

    def dense(name, units=width, initializer=None, dtype=policy):
        initializer = initializer or VarianceScaling()
        return layers.Dense(units, kernel_initializer=initializer, dtype=dtype, name=name)

    x_t = keras.Input((features,), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs = [x_t, t]

    condition = TimeEmbedding(width, name="time_embedding")(t)
    condition = ops.silu(dense("time_dense_1")(condition))
    condition = dense("time_dense_2")(condition)
    if num_classes is not None:
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        embedding = layers.Embedding(num_classes + 1, width, dtype=policy, name="label_embedding")
        condition = condition + embedding(label)
    condition = ops.silu(condition)

    waves = [wave(f * x_t) for f in FREQUENCIES for wave in (ops.sin, ops.cos)]
    x = dense("dense_in")(ops.concatenate([x_t, *waves], axis=-1))
    for i in range(depth):
        h = dense(f"block_{i}_dense_1")(ops.silu(x))
        h = ops.silu(h + dense(f"block_{i}_condition")(condition))
        # The last layer starts at zero, so that every block starts as the identity.
        x = x + dense(f"block_{i}_dense_2", initializer="zeros")(h)
    # float32 under any dtype policy: the loss is a small difference of nearly equal numbers.
    x = dense("dense_out", features, "zeros", "float32")(ops.silu(x))
    return inputs, x
