"""The best denoiser there can be for a finite data set, by formula instead of training.

It is what a network trained for ever on these data would become: a sampler that follows it ends
on the data themselves. Beside it one sees what a real network does not learn, luckily.
"""

import numpy as np
from keras import ops

# Differences are computed for so many numbers of the data at a time (and for each x_t of the
# batch): little enough for the cache, and for any memory.
CHUNK = 2**14


class OptimalDenoiser:
    """The exact E[x₀ | x_t] where x₀ is drawn from finitely many data.

    A function `(x_t, t) -> prediction`, or `(x_t, t, label) -> prediction`, for `sample`. The
    prediction is what `diffusion.prediction` says: noise, x₀ or velocity, float32 like `x_t`.

    Args:
        data: array `(n, ...)` of any rank, n >= 1: floats, or uint8 images, which are taken from
            [0, 255] to [-1, 1].
        diffusion: a `GaussianDiffusion`.
        labels: optional ints `(n,)`, the class of each datum, 0 … num_classes − 1, each with at
            least one datum. Then the call takes `label`, int32 `(batch,)`, and its mean is over
            that class alone; over all data for the label `num_classes`, or without `label`.

    Raises:
        TypeError: for data that are neither floats nor uint8, or labels that are no ints.
        ValueError: for data that are empty or not finite, or labels that do not fit them.

    Example:

    ```python
    points, labels = draw_spiral(1000, arms=2)
    denoiser = OptimalDenoiser(points, diffusion, labels)
    samples = sample(denoiser, diffusion, noise, steps=50)  # each ends on one of the points
    arm = sample(lambda x_t, t: denoiser(x_t, t, ops.zeros_like(t)), diffusion, noise)
    ```
    """

    def __init__(self, data, diffusion, labels=None):
        data = _check_data(data)
        self.diffusion = diffusion
        self.sample_shape = data.shape[1:]
        self.num_data = len(data)
        self.num_classes, self.labels = None, None
        if labels is not None:
            labels = _check_labels(labels, len(data))
            self.num_classes = int(labels.max()) + 1
            self.labels = ops.convert_to_tensor(labels)

        flat = data.reshape(len(data), -1)
        self.data = ops.convert_to_tensor(flat)
        # The last chunk is filled up with zeros, whose distances are cut off again.
        rows = max(1, min(CHUNK // flat.shape[1], len(flat)))
        filled = np.pad(flat, ((0, -len(flat) % rows), (0, 0)))
        self.chunks = ops.convert_to_tensor(filled.reshape(-1, rows, flat.shape[1]))
        scale = 1 / np.sqrt(2 * (1 - diffusion.alphas_cumprod))
        self.x_t_scale = ops.convert_to_tensor(scale.astype("float32"))
        data_scale = diffusion.sqrt_alphas_cumprod * scale
        self.data_scale = ops.convert_to_tensor(data_scale.astype("float32"))

    def __call__(self, x_t, t, label=None):
        start = self.mean(x_t, t, label)
        noise = self.diffusion.predict_noise_from_start(x_t, t, start)
        return self.diffusion.target(start, t, noise)

    def mean(self, x_t, t, label=None):
        """E[x₀ | x_t], float32 like `x_t`; the arguments are those of the call.

        Σᵢ wᵢ xᵢ with w = softmax(−‖x_t − √ᾱ_t xᵢ‖² / (2 (1 − ᾱ_t))): Karras et al. (2022),
        appendix B.3, eq. 57, for q(x_t | x₀) of Ho et al. (2020), eq. 4.
        """
        x_t = ops.cast(x_t, "float32")
        if tuple(x_t.shape[1:]) != self.sample_shape:
            raise ValueError(
                f"x_t holds samples of shape {tuple(x_t.shape[1:])}, but the data have "
                f"{self.sample_shape}."
            )
        flat = ops.reshape(x_t, (-1, 1, self.data.shape[1]))
        logits = -self._scaled_distances(flat, ops.reshape(t, (-1, 1, 1)))
        if label is not None:
            logits = ops.where(self._is_allowed(label), logits, -np.inf)
        weights = ops.softmax(logits, axis=-1)  # subtracts the largest logit first
        return ops.reshape(ops.matmul(weights, self.data), ops.shape(x_t))

    def _scaled_distances(self, flat, t):
        """‖x_t − √ᾱ_t xᵢ‖² / (2 (1 − ᾱ_t)), `(batch, n)`, from `(batch, 1, features)`.

        From differences: ‖x_t‖² − 2 √ᾱ_t x_t·xᵢ + ᾱ_t ‖xᵢ‖² would be quicker, but at small t
        it would divide what is left of those large numbers, and their errors, by 0.0002.
        """
        x_t_scale, data_scale = ops.take(self.x_t_scale, t), ops.take(self.data_scale, t)
        flat = x_t_scale * flat

        def from_chunk(chunk):
            return ops.sum(ops.square(flat - data_scale * chunk), axis=-1)

        distances = ops.map(from_chunk, self.chunks)  # (chunks, batch, rows)
        distances = ops.transpose(distances, (1, 0, 2))
        rows = self.chunks.shape[0] * self.chunks.shape[1]
        return ops.reshape(distances, (-1, rows))[:, : self.num_data]

    def _is_allowed(self, label):
        """Which data belong to which label of the batch, `(batch, n)`."""
        if self.labels is None:
            raise ValueError("a label was given, but OptimalDenoiser was made without labels.")
        label = ops.reshape(ops.cast(label, "int32"), (-1, 1))
        return ops.logical_or(ops.equal(label, self.labels), ops.equal(label, self.num_classes))


def _check_data(data):
    data = np.asarray(data)
    if data.ndim < 2 or 0 in data.shape:
        raise ValueError(f"data must be (n, ...) with n >= 1, got shape {data.shape}.")
    if data.dtype == np.uint8:
        return data.astype("float32") / 127.5 - 1
    if data.dtype.kind != "f":
        raise TypeError(f"data must be floats, or uint8 images, got dtype {data.dtype}.")
    if not np.isfinite(data).all():
        raise ValueError("data hold NaN or infinite values.")
    return data.astype("float32")


def _check_labels(labels, num_data):
    labels = np.asarray(labels)
    if labels.shape != (num_data,):
        raise ValueError(f"labels must be ({num_data},), one a datum, got shape {labels.shape}.")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be ints, got dtype {labels.dtype}.")
    if labels.min() < 0 or len(np.unique(labels)) != labels.max() + 1:
        raise ValueError(
            f"labels must be 0 … num_classes − 1, each at least once, got {np.unique(labels)}."
        )
    return labels.astype("int32")
