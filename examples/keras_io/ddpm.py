"""
Title: Denoising Diffusion Probabilistic Model
Author: The keras_ddpm authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Generating images of flowers with a diffusion model, on every backend.
Accelerator: GPU
"""

"""
## Introduction

A diffusion model generates images by removing noise. In training, noise is added to
images, and a network learns to predict it. To generate, one begins with noise alone and
subtracts a little of the predicted noise, many times.

This example follows [Ho et al. (2020)](https://arxiv.org/abs/2006.11239), whose
equation numbers it quotes, and trains on the photographs of
[Oxford Flowers 102](https://www.robots.ox.ac.uk/~vgg/data/flowers/102/). It needs
Keras 3 with TensorFlow, JAX or PyTorch. Training and sampling contain no code of a
backend.
"""

"""
## Setup
"""

import math
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops

"""
## Hyperparameters

Each of the lists has an entry for each resolution of the network, from the image size
downwards. An epoch has 256 steps. One epoch shows only that everything runs: the
averaged weights, from which samples are drawn, are then still mostly the initial ones.
Good samples take some tens of thousands of steps.
"""

image_size = 64
batch_size = 32
num_epochs = 1  # for good samples: 100
learning_rate = 2e-4
ema_decay = 0.999

timesteps = 1000
widths = [64, 128, 256, 512]
has_attention = [False, False, True, True]
num_res_blocks = 2
norm_groups = 8

num_samples = 16

"""
## Data

The photographs are cropped to squares, resized, and scaled to [-1, 1]. All 8189 of them
are used, and take 400 MB in memory.
"""


def load_photographs(folder, image_size):
    """JPEG files below a folder as float32 `(n, size, size, 3)` in [-1, 1]."""
    paths = sorted(Path(folder).rglob("*.jpg"))
    images = np.empty((len(paths), image_size, image_size, 3), "uint8")
    for i, path in enumerate(paths):
        images[i] = keras.utils.load_img(
            path,
            target_size=(image_size, image_size),
            interpolation="lanczos",
            keep_aspect_ratio=True,
        )
    return images.astype("float32") / 127.5 - 1.0


folder = keras.utils.get_file(
    "oxford_flowers_102",
    origin="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
    extract=True,
)
images = load_photographs(folder, image_size)
print(f"{len(images)} photographs of shape {images.shape[1:]}")

"""
## The forward process

Step `t` of the forward process makes an image a little weaker and adds a little noise
(eq. 2). All steps up to `t` together are one Gaussian again (eq. 4):

$$x_t = \\sqrt{\\bar\\alpha_t}\\,x_0 + \\sqrt{1-\\bar\\alpha_t}\\,\\epsilon, \\qquad
\\bar\\alpha_t = \\prod_{s\\le t}(1-\\beta_s), \\qquad \\epsilon\\sim\\mathcal N(0, I)$$

So training can jump to any `t` at once. The reverse of a step, given the noise, is a
Gaussian with the mean (eq. 11) and the variance (eq. 7)

$$\\mu_t = \\frac{1}{\\sqrt{1-\\beta_t}}\\Big(x_t -
\\frac{\\beta_t}{\\sqrt{1-\\bar\\alpha_t}}\\epsilon\\Big), \\qquad
\\tilde\\beta_t = \\frac{1-\\bar\\alpha_{t-1}}{1-\\bar\\alpha_t}\\beta_t.$$

The tables are computed in float64, where the differences from 1 are still exact.
"""


class GaussianDiffusion:
    """The tables and formulas of the process. `t` counts from 0."""

    def __init__(self, timesteps=1000, beta_start=1e-4, beta_end=0.02):
        self.timesteps = timesteps
        self.betas = np.linspace(beta_start, beta_end, timesteps)
        self.alphas_cumprod = np.cumprod(1.0 - self.betas)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        self.variances = (1.0 - previous) / (1.0 - self.alphas_cumprod) * self.betas

    def at(self, table, t):
        """Entries of a table for timesteps `(batch,)`, as `(batch, 1, 1, 1)`."""
        table = ops.convert_to_tensor(table.astype("float32"))
        return ops.reshape(ops.take(table, t), (-1, 1, 1, 1))

    def q_sample(self, x_0, t, noise):
        """Adds noise to images: eq. 4."""
        signal = self.at(np.sqrt(self.alphas_cumprod), t)
        return signal * x_0 + self.at(np.sqrt(1.0 - self.alphas_cumprod), t) * noise

    def p_mean(self, x_t, t, noise):
        """The mean of the reverse step: eq. 11, through the predicted image.

        Clipping the predicted image to the range of pixels keeps errors from growing.
        """
        signal = self.alphas_cumprod[t]
        x_0 = np.clip((x_t - np.sqrt(1.0 - signal) * noise) / np.sqrt(signal), -1, 1)
        previous = self.alphas_cumprod[t - 1] if t > 0 else 1.0
        of_start = np.sqrt(previous) * self.betas[t] / (1.0 - signal)
        of_x_t = np.sqrt(1.0 - self.betas[t]) * (1.0 - previous) / (1.0 - signal)
        return of_start * x_0 + of_x_t * x_t  # eq. 7


diffusion = GaussianDiffusion(timesteps)

steps = np.linspace(0, timesteps - 1, 8).astype("int32")
noise = np.random.default_rng(0).standard_normal((8, *images.shape[1:]))
noisy = diffusion.q_sample(np.repeat(images[:1], 8, axis=0), steps, noise)
plt.figure(figsize=(12, 2))
for i, picture in enumerate(ops.convert_to_numpy(noisy)):
    plt.subplot(1, 8, i + 1)
    plt.imshow(np.clip((picture + 1) / 2, 0, 1))
    plt.title(f"t = {steps[i]}")
    plt.axis("off")
plt.show()

"""
## The network

The network is a U-Net: it processes the image at several resolutions, and skip
connections carry details from the way down to the way up. Every residual block gets the
timestep, as sines and cosines of many frequencies. At the low resolutions,
self-attention lets each pixel see all others. The last layer of each block begins with
zeros, so that every block begins as the identity.
"""


def kernel_init(scale=1.0):
    return keras.initializers.VarianceScaling(
        max(scale, 1e-10), mode="fan_avg", distribution="uniform"
    )


@keras.saving.register_keras_serializable("keras_io_ddpm")
class TimeEmbedding(layers.Layer):
    """int32 timesteps `(batch,)` -> float32 `(batch, width)`."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def call(self, t):
        half = self.width // 2
        frequencies = ops.exp(
            -math.log(10000.0) * ops.arange(half, dtype="float32") / half
        )
        angles = ops.cast(t, "float32")[:, None] * frequencies[None, :]
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def norm(x):
    return layers.GroupNormalization(groups=norm_groups, epsilon=1e-6)(x)


def conv(x, width, size=3, strides=1, scale=1.0):
    return layers.Conv2D(
        width, size, strides, padding="same", kernel_initializer=kernel_init(scale)
    )(x)


def residual_block(x, time, width):
    shortcut = x if x.shape[-1] == width else conv(x, width, size=1)
    x = conv(keras.activations.swish(norm(x)), width)
    shift = layers.Dense(width, kernel_initializer=kernel_init())(time)
    x = x + layers.Reshape((1, 1, width))(shift)
    x = conv(keras.activations.swish(norm(x)), width, scale=0.0)
    return x + shortcut


def attention_block(x):
    height, width, channels = x.shape[1:]
    tokens = layers.Reshape((height * width, channels))(norm(x))
    query, key, value = (
        layers.Dense(channels, kernel_initializer=kernel_init())(tokens)
        for _ in range(3)
    )
    attended = layers.Attention(use_scale=False)([query * channels**-0.5, value, key])
    attended = layers.Dense(channels, kernel_initializer=kernel_init(0.0))(attended)
    return x + layers.Reshape((height, width, channels))(attended)


def build_unet():
    x_t = keras.Input((image_size, image_size, 3), name="x_t")
    t = keras.Input((), dtype="int32", name="t")
    time = TimeEmbedding(widths[0])(t)
    for _ in range(2):
        time = layers.Dense(4 * widths[0], kernel_initializer=kernel_init())(time)
        time = keras.activations.swish(time)

    x = conv(x_t, widths[0])
    skips = [x]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            x = residual_block(x, time, width)
            x = attention_block(x) if has_attention[level] else x
            skips.append(x)
        if level < len(widths) - 1:
            x = conv(x, width, strides=2)
            skips.append(x)

    x = residual_block(x, time, widths[-1])
    x = attention_block(x)
    x = residual_block(x, time, widths[-1])

    for level, width in reversed(list(enumerate(widths))):
        for _ in range(num_res_blocks + 1):
            x = layers.Concatenate()([x, skips.pop()])
            x = residual_block(x, time, width)
            x = attention_block(x) if has_attention[level] else x
        if level > 0:
            x = conv(layers.UpSampling2D(2)(x), width)

    x = keras.activations.swish(norm(x))
    return keras.Model([x_t, t], conv(x, 3, scale=0.0), name="unet")


"""
## The model

Training (algorithm 1) draws a timestep and noise for each image, and compares the noise
with the prediction of the network (eq. 14). All this happens in `call`, so that `fit`
works as it is on every backend.

Samples are better when they are drawn from averages of the weights over the last
steps. `call` updates these averages, as a normalization layer updates its statistics.

Sampling (algorithm 2) begins with noise and takes all steps backwards.
"""


@keras.saving.register_keras_serializable("keras_io_ddpm")
class DiffusionModel(keras.Model):
    def __init__(self, network, diffusion, ema_decay=0.999, **kwargs):
        super().__init__(**kwargs)
        self.network, self.diffusion, self.ema_decay = network, diffusion, ema_decay
        self.ema_network = keras.models.clone_model(network)
        self.ema_network.set_weights(network.get_weights())
        self.ema_network.trainable = False
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x_0, training=False):
        batch = ops.shape(x_0)[0]
        t = keras.random.randint(
            (batch,), 0, self.diffusion.timesteps, "int32", seed=self.seed_generator
        )
        noise = keras.random.normal(ops.shape(x_0), seed=self.seed_generator)
        x_t = self.diffusion.q_sample(x_0, t, noise)
        network = self.network if training else self.ema_network
        predicted = network([x_t, t], training=training)
        if training:
            for average, weight in zip(self.ema_network.weights, self.network.weights):
                average.assign(
                    self.ema_decay * average + (1.0 - self.ema_decay) * weight
                )
        return noise - predicted

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        return ops.mean(ops.square(y_pred))  # eq. 14

    def generate(self, num_images, seed=0):
        """Algorithm 2: float32 NumPy images `(num_images, height, width, 3)`."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((num_images, *self.network.input_shape[0][1:]))
        for t in reversed(range(self.diffusion.timesteps)):
            inputs = [x.astype("float32"), np.full(num_images, t, "int32")]
            noise = self.ema_network.predict_on_batch(inputs)
            x = self.diffusion.p_mean(x, t, noise)
            if t > 0:  # the last step adds no noise
                scale = np.sqrt(self.diffusion.variances[t])
                x = x + scale * rng.standard_normal(x.shape)
        return x.astype("float32")


"""
A callback shows samples after each epoch, from the same noise each time.
"""


def show(images, columns=8):
    rows = math.ceil(len(images) / columns)
    plt.figure(figsize=(1.5 * columns, 1.5 * rows))
    for i, image in enumerate(images):
        plt.subplot(rows, columns, i + 1)
        plt.imshow(np.clip((image + 1) / 2, 0, 1))
        plt.axis("off")
    plt.tight_layout()
    plt.show()


class ShowSamples(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        show(self.model.generate(num_samples))


"""
## Training
"""

keras.utils.set_random_seed(0)
model = DiffusionModel(build_unet(), diffusion, ema_decay)
print(f"{model.network.count_params():,} parameters")
model.compile(optimizer=keras.optimizers.Adam(learning_rate))
model.fit(images, batch_size=batch_size, epochs=num_epochs, callbacks=[ShowSamples()])

"""
## Inference

The averaged network is all that sampling needs. It is a functional model, so it can be
saved whole and loaded on another backend.
"""

model.ema_network.save("ddpm.keras")
show(model.generate(num_samples, seed=1))

"""
## Conclusion

Colours come first, then shapes, and details last. Ho et al. trained for 800 000 steps
on CIFAR-10. To go on:

- [DDIM](https://arxiv.org/abs/2010.02502) draws with 50 steps instead of 1000;
- the prediction of [velocity](https://arxiv.org/abs/2202.00512) learns faster;
- [classifier-free guidance](https://arxiv.org/abs/2207.12598) draws images of a class.
"""
