"""A small network for points instead of images: the quickest way to see diffusion at work."""

import keras
from keras import layers, ops

from keras_ddpm.initializers import VarianceScaling
from keras_ddpm.layers import TimeEmbedding
from keras_ddpm.validation import check_positive_int

# Without its sines, the network blurs whatever is finer than the noise it began with: Tancik et
# al. (2020), "Fourier Features Let Networks Learn High Frequency Functions".
FREQUENCIES = (1, 2, 4, 8)  # radians a unit: waves from six units down to 0.8


def build_mlp(features=2, width=128, depth=3, num_classes=None, name="mlp"):
    """Builds the network that looks at noisy points and says what the noise is.

    It sees the coordinates and sines of them, in `depth` residual blocks of two dense layers
    each; the timestep and the label enter every block. Inputs: `x_t` `(batch, features)` float,
    with a standard deviation of about 1, `t` `(batch,)` int32, and with classes `label`
    `(batch,)` int32. Output: float32 like `x_t`, zero before training.

    Args:
        features: int >= 1, coordinates of a point.
        width: even int >= 4, units of the hidden layers.
        depth: int >= 1, residual blocks.
        num_classes: optional int >= 1. Labels are 0 … num_classes − 1; the label `num_classes`
            means "no label".
        name: str, the model's name.

    Returns:
        A functional `keras.Model`, called as `network([x_t, t])` or `network([x_t, t, label])`.

    Raises:
        TypeError: for a size that is no int.
        ValueError: for a size that is too small, or an odd width.

    Example:

    ```python
    points, labels = draw_spiral(10_000, arms=2)
    model = DiffusionModel(build_mlp(num_classes=2), GaussianDiffusion())
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(points, labels, batch_size=256, epochs=50)
    samples = model.generate(1000, labels=0)
    ```
    """
    check_positive_int("features", features)
    check_positive_int("width", width, minimum=4)
    check_positive_int("depth", depth)
    if width % 2:
        raise ValueError(f"width={width} must be even: it sizes the time embedding.")

    def dense(units, initializer=None, **kwargs):
        initializer = initializer or VarianceScaling()
        return layers.Dense(units, kernel_initializer=initializer, **kwargs)

    def residual_block(x):
        shortcut = x
        x = dense(width)(keras.activations.swish(x))
        x = keras.activations.swish(layers.Add()([x, dense(width)(condition)]))
        # Starts at zero, so that every block starts as the identity.
        return layers.Add()([shortcut, dense(width, "zeros")(x)])

    x_t = keras.Input((features,), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    inputs = [x_t, t]

    condition = TimeEmbedding(width, name="time_embedding")(t)
    condition = dense(width, activation="swish", name="time_dense_1")(condition)
    condition = dense(width, name="time_dense_2")(condition)
    if num_classes is not None:
        check_positive_int("num_classes", num_classes)
        label = keras.Input((), dtype="int32", name="label")
        inputs.append(label)
        embedding = layers.Embedding(num_classes + 1, width, name="label_embedding")
        condition = layers.Add()([condition, embedding(label)])
    condition = keras.activations.swish(condition)

    waves = [wave(f * x_t) for f in FREQUENCIES for wave in (ops.sin, ops.cos)]
    x = dense(width, name="dense_in")(layers.Concatenate()([x_t, *waves]))
    for _ in range(depth):
        x = residual_block(x)
    # float32 output under any dtype policy: the loss is a small difference of close numbers.
    x = dense(features, "zeros", dtype="float32", name="dense_out")(keras.activations.swish(x))
    return keras.Model(inputs, x, name=name)
