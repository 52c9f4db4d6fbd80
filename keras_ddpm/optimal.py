"""The exact denoiser of a finite data set, by formula instead of training."""

from __future__ import annotations

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_ddpm.described import Described
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.pixels import to_float
from keras_ddpm.types import Tensor
from keras_ddpm.validation import check_array, check_instance, check_labels


class OptimalDenoiser(Described):
    """E[x₀ | x_t] for x₀ from a finite data set, as a denoiser for `sample`.

    No network has a smaller loss on these data; a sampler that follows it ends on the data
    themselves. So it is the ground truth for samplers and networks. A call takes memory for
    batch × n × dimensions floats.

    It is a function `(x_t, t) -> prediction`, or `(x_t, t, label) -> prediction`. The prediction is
    what `diffusion.prediction` says: noise, x₀ or velocity, float32 like `x_t`.

    Args:
        data: array `(n, ...)` of any rank, n >= 1: floats, or uint8 images, which become floats in
            [-1, 1].
        diffusion: a `GaussianDiffusion`.
        labels: optional ints `(n,)`, 0 … num_classes − 1. With `label` int32 `(batch,)` the mean is
            over that class alone; over all data for the label `num_classes`, or without `label`.

    ```python
    points = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    diffusion = GaussianDiffusion(1000)
    denoiser = OptimalDenoiser(points, diffusion)
    samples = sample(denoiser, diffusion, keras.random.normal((8, 2)), steps=50)  # on the points
    ```
    """

    def __init__(
        self, data: ArrayLike, diffusion: GaussianDiffusion, labels: ArrayLike | None = None
    ):
        check_instance("diffusion", diffusion, GaussianDiffusion)
        data = check_array("data", data, (None, None, ...))
        if data.dtype.kind != "f" and data.dtype != np.uint8:
            raise TypeError(f"data has dtype {data.dtype}, but must be float, or uint8 images.")
        data = to_float(data)
        self.diffusion, self.sample_shape = diffusion, data.shape[1:]
        self.data = ops.convert_to_tensor(data.reshape(len(data), -1))
        self.labels, self.num_classes = None, None
        if labels is not None:
            labels = check_labels("labels", check_array("labels", labels, (None,)), len(data))
            self.labels, self.num_classes = ops.convert_to_tensor(labels), int(labels.max()) + 1
            if len(np.unique(labels)) < self.num_classes:
                raise ValueError(f"labels must hold each of 0 to {self.num_classes - 1}.")
        scale = 1 / np.sqrt(2 * (1 - diffusion.alphas_cumprod))
        self.x_t_scale = ops.convert_to_tensor(scale.astype("float32"))
        data_scale = diffusion.sqrt_alphas_cumprod * scale
        self.data_scale = ops.convert_to_tensor(data_scale.astype("float32"))

    def __call__(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        start = self.mean(x_t, t, label)
        noise = self.diffusion.predict_noise_from_start(x_t, t, start)
        return self.diffusion.target(start, t, noise)

    def mean(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x₀ | x_t], float32 like `x_t`; the arguments are those of the call.

        Σᵢ wᵢ xᵢ with w = softmax(−‖x_t − √ᾱ_t xᵢ‖² / (2 (1 − ᾱ_t))): Karras et al. (2022),
        appendix B.3, eq. 57, for q(x_t | x₀) of Ho et al. (2020), eq. 4.
        """
        x_t = ops.cast(x_t, "float32")
        if tuple(x_t.shape[1:]) != self.sample_shape:
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}, but data {self.sample_shape}.")
        t = ops.reshape(t, (-1, 1, 1))
        # Scaled before the difference, and not expanded into ‖x_t‖² − 2 √ᾱ_t x_t·xᵢ + ᾱ_t ‖xᵢ‖²,
        # whose rounding errors would be divided by 0.0002 at small t.
        scaled = ops.take(self.x_t_scale, t) * ops.reshape(x_t, (-1, 1, self.data.shape[1]))
        distances = ops.square(scaled - ops.take(self.data_scale, t) * self.data)
        logits = -ops.sum(distances, axis=-1)  # (batch, n)
        if label is not None:
            if self.num_classes is None:
                raise ValueError("label was given, but OptimalDenoiser was made without labels.")
            if not ops.is_tensor(label):
                label = check_labels("label", label, np.size(label), self.num_classes + 1)
            label = ops.reshape(ops.cast(label, "int32"), (-1, 1))
            is_any = ops.equal(label, self.num_classes)
            is_allowed = ops.logical_or(ops.equal(label, self.labels), is_any)
            logits = ops.where(is_allowed, logits, -np.inf)
        weights = ops.softmax(logits, axis=-1)
        return ops.reshape(ops.matmul(weights, self.data), ops.shape(x_t))
