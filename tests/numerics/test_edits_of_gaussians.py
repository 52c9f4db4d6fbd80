"""Edits where the data are Gaussian: their best denoiser, and so every result, is a formula."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, inpaint, invert

STD, CORRELATION = 0.4, 0.9
COVARIANCE = STD**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
PAIRS = 4000  # pairs of neighbours in one picture: noise is drawn picture by picture


@functools.cache
def gaussian_model(zero_terminal_snr=False):
    """The exact E[x0 | x_t] for pictures whose rows are pairs of pixels from N(0, COVARIANCE)."""
    diffusion = GaussianDiffusion(
        1000, "cosine", prediction="start", zero_terminal_snr=zero_terminal_snr
    )
    a = diffusion.alphas_cumprod[:, None, None]
    gain = np.sqrt(a) * COVARIANCE @ np.linalg.inv(a * COVARIANCE + (1 - a) * np.eye(2))
    x_t, t = keras.Input((PAIRS, 2, 1)), keras.Input((), dtype="int32")
    table = layers.Embedding(diffusion.timesteps, 4)
    matrix = layers.Reshape((2, 2))(table(t))
    start = ops.matmul(layers.Reshape((PAIRS, 2))(x_t), matrix)  # symmetric
    network = keras.Model([x_t, t], layers.Reshape((PAIRS, 2, 1))(start))
    table.set_weights([gain.reshape(-1, 4).astype("float32")])
    return DiffusionModel(network, diffusion)


def gaussian_pictures():
    rng = np.random.default_rng(0)
    pairs = rng.multivariate_normal([0, 0], COVARIANCE, (1, PAIRS))
    return np.clip(pairs, -1, 1)[..., None].astype("float32")


def reconstruction_error(model, evaluations, steps):
    images = gaussian_pictures()
    noise = invert(model, images, steps=steps, evaluations=evaluations)
    again = model.generate(noise=noise, steps=steps, clip_denoised=False)
    return np.abs(again - images).max()


def test_sampling_from_the_inverse_returns_the_images():
    model = gaussian_model()
    errors = [reconstruction_error(model, n, 20) for n in (1, 3, 10)]
    assert errors[0] > 10 * errors[1] > 1000 * errors[2] and errors[2] < 2e-5, errors
    # Noise without any signal can be inverted too.
    assert reconstruction_error(gaussian_model(zero_terminal_snr=True), 30, 10) < 1e-5


def test_resampling_brings_unknown_pixels_to_their_conditional_distribution():
    images, mask = gaussian_pictures(), np.zeros((PAIRS, 2))
    mask[:, 0] = 1
    known = images[0, :, 0, 0]

    def fit(steps, resample_steps, jump_length):
        options = {"resample_steps": resample_steps, "jump_length": jump_length, "steps": steps}
        painted = inpaint(gaussian_model(), images, mask, clip_denoised=False, seed=0, **options)
        unknown = painted[0, :, 1, 0]
        slope = (known @ unknown) / (known @ known)
        return slope, np.std(unknown - slope * known)

    # x_2 given x_1 is N(CORRELATION x_1, STD² (1 − CORRELATION²)).
    slopes = [fit(30, resample_steps, 1)[0] for resample_steps in (1, 4, 16)]
    off = np.abs(np.array(slopes) - CORRELATION)
    assert off[0] > 3 * off[1] > 6 * off[2] and off[2] < 0.03, slopes
    spread, exact = fit(30, 5, 5)[1], STD * np.sqrt(1 - CORRELATION**2)
    assert spread == pytest.approx(exact, rel=0.1)
