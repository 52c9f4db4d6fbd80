"""The variational bound on the negative log-likelihood of images, in bits per dimension.

Equation numbers are those of Ho et al. (2020), "Denoising Diffusion Probabilistic Models". With
the bits of this bound, and the network, the images could be stored without loss: it says how
much of the data a model knows, but little of how its samples look.
"""

import functools
import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_ddpm.backend import compile_function
from keras_ddpm.clipping import check_clip_denoised
from keras_ddpm.generation import Generation
from keras_ddpm.validation import check_positive_int

HALF_BIN = 1 / 255  # the 256 values lie 2 / 255 apart between -1 and 1
SMALLEST_PROBABILITY = 1e-12  # no pixel costs more than 40 bits: as in the authors' code


@dataclass(frozen=True)
class BitsPerDim:
    """The variational bound in bits per dimension (a channel of a pixel), and what it is made of.

    Errors are standard errors of means over the images; NaN for a single image.

    Attributes:
        total: float, the bound: `prior` and all T terms.
        total_error: float.
        prior: float, L_T: what is left of the images in x_T.
        prior_error: float.
        timesteps: int array `(k,)`, ascending, which t were measured; all T of them, or fewer.
        by_timestep: float64 array `(k,)`, the term of each: at t = 0 the decoder's L_0, then the
            KL divergences, L_t in the paper's own count from 0 as well.
        by_timestep_error: float64 array `(k,)`.
    """

    total: float
    total_error: float
    prior: float
    prior_error: float
    timesteps: np.ndarray
    by_timestep: np.ndarray
    by_timestep_error: np.ndarray


def bits_per_dim(
    denoiser,
    images,
    diffusion=None,
    labels=None,
    timesteps=None,
    clip_denoised=True,
    seed=0,
    batch_size=64,
    progress=False,
):
    """How many bits a channel of a pixel would cost, coded with this model; eq. 5.

    L_T + Σ_t L_t + L_0 with one draw of x_t for each image and t, in nats / (dimensions · ln 2):

    - L_T = KL(q(x_T | x₀) ‖ N(0, 1)), which no network changes;
    - L_t = KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)), between Gaussians in closed form;
    - L_0 = −log p(x₀ | x₁), with the discretised Gaussian of eq. 13.

    The variance of p is what `diffusion.variance` says; at t = 0 it is β̃ of t = 1, as in the
    authors' code. That code approximates the normal CDF of eq. 13 by a tanh; here it is exact.

    Every image goes through the network once for each t: 1000 images and T = 1000 are 10⁶ times.

    Args:
        denoiser: a `DiffusionModel`, of which the averaged network is measured; or a function
            `(x_t, t) -> prediction`, or a Keras network called as `network([x_t, t])`, as for
            `sample`.
        images: uint8 array `(n, height, width, channels)`, n >= 1.
        diffusion: a `GaussianDiffusion`, needed unless a model is given. None is the model's
            own; another one may have the other `variance`.
        labels: for a model as for `DiffusionModel.generate`; for a denoiser optional ints
            `(n,)`, which it is then given as third argument.
        timesteps: which t to measure. None is all T: the bound itself. An estimate costs less:
            different ints in [0, T), t = 0 and at least one more; or an int k >= 2 for t = 0 and
            k - 1 others, at equal ratios from 1 to T - 1 (fewer where they meet), because L_t
            falls steeply at small t. `total` then takes L_t as linear in t between them and as
            constant beyond the last; `total_error` does not know of that error.
        clip_denoised: whether x̂₀ is clipped to [-1, 1], see `clip_start`.
        seed: int >= 0. Image i draws its noise from NumPy's generator of `[seed, i]`, so that
            every backend and batch size sees the same.
        batch_size: int, how many images are in memory at once.
        progress: bool, whether to show a progress bar.

    Returns:
        A `BitsPerDim`.

    Raises:
        TypeError: for images that are not uint8: the bound counts the 256 values of a byte.
        ValueError: for images of a wrong shape, a denoiser without a diffusion, labels that do
            not fit, or timesteps that are none.

    Example:

    ```python
    result = bits_per_dim(model, test_images[:256], timesteps=100)
    print(f"{result.total:.2f} ± {result.total_error:.2f} bits/dim")
    plot_bits_per_dim(result, "bits.png")
    ```
    """
    images = _check_images(images, denoiser)
    denoise, variables, jit_compile, diffusion = _open(denoiser, diffusion)
    conditions = _conditions(denoiser, labels, len(images))
    check_clip_denoised(clip_denoised)
    seed = check_positive_int("seed", seed, minimum=0)
    total, size = len(images), min(check_positive_int("batch_size", batch_size), len(images))
    timesteps = _choose_timesteps(timesteps, diffusion.timesteps)

    terms = np.empty((len(timesteps), total))
    program = compile_function(
        functools.partial(_terms, denoise, diffusion, clip_denoised), variables, jit_compile
    )
    batches = range(0, total, size)
    bar = keras.utils.Progbar(len(batches) * len(timesteps)) if progress else None
    for start in batches:
        # The last batch is filled up with copies, so that one program serves all batches.
        index = np.minimum(np.arange(start, start + size), total - 1)
        x_start = ops.convert_to_tensor(_to_float(images[index]))
        labels_of_batch = tuple(ops.convert_to_tensor(c[index]) for c in conditions)
        generators = [np.random.default_rng([seed, i]) for i in index]
        for row, t in enumerate(timesteps):
            noise = [g.standard_normal(images.shape[1:], dtype="float32") for g in generators]
            noise = ops.convert_to_tensor(np.stack(noise))
            bits = program(x_start, ops.full((size,), t, dtype="int32"), noise, labels_of_batch)
            terms[row, start : start + size] = ops.convert_to_numpy(bits)[: total - start]
            if progress:
                bar.add(1)

    prior = _prior(images, diffusion)
    bound = prior + _weights(timesteps, diffusion.timesteps) @ terms
    return BitsPerDim(
        *map(float, _mean_and_error(bound)),
        *map(float, _mean_and_error(prior)),
        timesteps,
        *_mean_and_error(terms),
    )


def _terms(denoise, diffusion, clip_denoised, x_start, t, noise, conditions):
    """L_0 where t = 0 and L_t elsewhere, float32 `(batch,)` in bits per dimension."""
    x_t = diffusion.q_sample(x_start, t, noise)
    output = denoise(x_t, t, *conditions)
    mean, _, log_variance, _ = diffusion.p_mean_variance(output, x_t, t, clip_denoised)
    true_mean, _, true_log_variance = diffusion.q_posterior_mean_variance(x_start, x_t, t)
    divergence = gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
    decoder = -discretized_log_likelihood(x_start, mean, log_variance)
    is_decoder = ops.reshape(ops.equal(t, 0), ops.shape(log_variance))
    nats = ops.where(is_decoder, decoder, divergence)
    return ops.mean(nats, axis=tuple(range(1, len(nats.shape)))) / math.log(2)


def gaussian_divergence(mean_q, log_variance_q, mean_p, log_variance_p):
    """KL(q ‖ p) of two Gaussians in nats, a value each; float32 tensors that broadcast.

    ½ (log σ_p²/σ_q² + σ_q²/σ_p² − 1 + (μ_q − μ_p)²/σ_p²). Nearly equal variances leave little of
    the first three terms, which `expm1` keeps.
    """
    ratio = log_variance_p - log_variance_q
    distance = ops.square(mean_q - mean_p) * ops.exp(-log_variance_p)
    return 0.5 * (ratio + ops.expm1(-ratio) + distance)


def discretized_log_likelihood(x, mean, log_variance):
    """log of the probability that N(mean, variance) gives to the bin of a byte's value, eq. 13.

    The bin reaches from x − 1/255 to x + 1/255, that of the smallest value down to −∞ and that
    of the largest up to ∞: the 256 probabilities sum to 1.

    Args:
        x: float32 tensor, bytes scaled to [-1, 1].
        mean: float32 tensor like `x`.
        log_variance: float32 tensor that broadcasts against `x`.

    Returns:
        float32 tensor like `x`, in nats, at least log 1e-12.

    Example:

    >>> std = ops.full((1,), 1 / 255)  # the middle bin then reaches one σ to either side
    >>> float(ops.exp(discretized_log_likelihood(ops.zeros((1,)), 0.0, 2 * ops.log(std)))[0])
    0.6826...
    """
    is_smallest, is_largest = x < -1 + HALF_BIN, x > 1 - HALF_BIN
    # A bin below the mean is as likely as its mirror image above. There both tails are small, so
    # that their difference keeps its digits: P = Q((c − 1/255) / σ) − Q((c + 1/255) / σ).
    centre = x - mean
    centre = ops.where(is_largest, centre, ops.where(is_smallest, -centre, ops.abs(centre)))
    scale = ops.exp(-0.5 * log_variance)  # 1 / σ
    beyond = _upper_tail((centre + HALF_BIN) * scale)
    beyond = ops.where(ops.logical_or(is_smallest, is_largest), 0.0, beyond)
    probability = _upper_tail((centre - HALF_BIN) * scale) - beyond
    return ops.log(ops.maximum(probability, SMALLEST_PROBABILITY))


def _upper_tail(z):
    """Q(z), the probability that a standard normal number exceeds z."""
    return 0.5 * ops.erfc(z / math.sqrt(2))


def _prior(images, diffusion):
    """L_T of each image, `(n,)`: ½ (ᾱ_T (x₀² − 1) − log(1 − ᾱ_T)), the mean over dimensions."""
    signal = diffusion.alphas_cumprod[-1]
    power = np.array([np.square(_to_float(image)).mean(dtype="float64") for image in images])
    return 0.5 * (signal * (power - 1) - np.log1p(-signal)) / math.log(2)


def _weights(timesteps, total):
    """How many of the T terms each one measured stands for, by interpolation; t = 0 for itself."""
    others, unmeasured = timesteps[1:], np.arange(1, total)
    shares = [np.interp(unmeasured, others, unit).sum() for unit in np.eye(len(others))]
    return np.array([1.0, *shares])


def _mean_and_error(values):
    """Mean over the last axis, and its standard error."""
    count, mean = values.shape[-1], values.mean(axis=-1)
    error = values.std(axis=-1, ddof=1) if count > 1 else np.full_like(mean, math.nan)
    return mean, error / math.sqrt(count)


def _to_float(images):
    return images.astype("float32") / np.float32(127.5) - 1


# ---- what may be given ----------------------------------------------------------------------


def _open(denoiser, diffusion):
    """The denoiser as a function, the variables it reads, whether to use XLA, the diffusion."""
    if isinstance(denoiser, Generation):
        loop = denoiser.sampling_loop
        return loop.denoiser, loop.variables, loop.jit_compile, diffusion or loop.diffusion
    if diffusion is None:
        raise ValueError("diffusion is needed beside a denoiser: only a DiffusionModel has one.")
    if isinstance(denoiser, keras.layers.Layer):

        def network(*inputs):
            return denoiser(list(inputs), training=False)

        return network, denoiser.variables, False, diffusion
    return denoiser, [], False, diffusion


def _conditions(denoiser, labels, num_images):
    """What the denoiser is told beside x_t and t: (), or (labels,)."""
    if isinstance(denoiser, Generation):
        return denoiser.sampling_conditions(labels, 1.0, num_images)
    if labels is None:
        return ()
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (num_images,):
        raise ValueError(
            f"labels must be {num_images} ints, one an image, got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return (labels.astype("int32"),)


def _check_images(images, denoiser):
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(
            f"images must be uint8, got {images.dtype}: bits per dimension are those of a byte, "
            "which floats need not have been. For floats made from bytes, see `to_uint8`."
        )
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be (n, height, width, channels), got shape {images.shape}.")
    if isinstance(denoiser, Generation) and images.shape[1:] != denoiser.sample_shape:
        raise ValueError(
            f"images have shape {images.shape}, but the model's are (n, *{denoiser.sample_shape})."
        )
    return images


def _choose_timesteps(timesteps, total):
    """Which t to measure, an ascending int array."""
    if timesteps is None:
        return np.arange(total)
    if np.ndim(timesteps) == 0:
        check_positive_int("timesteps", timesteps, minimum=2)
        timesteps = np.unique(np.geomspace(1, max(total - 1, 1), timesteps - 1).round())
        timesteps = np.append(0, timesteps[timesteps < total]).astype(int)
    chosen = np.unique(timesteps)
    within = chosen.dtype.kind in "iu" and 0 == chosen[0] and chosen[-1] < total
    if not within or len(chosen) != np.size(timesteps) or len(chosen) < min(2, total):
        raise ValueError(
            f"timesteps={timesteps!r} must be different ints from 0 to {total - 1}, 0 and at least "
            "one more."
        )
    return chosen
