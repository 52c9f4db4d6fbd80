"""The optimal denoiser against float64 NumPy, and where sampling with it ends."""

import numpy as np
import pytest
from keras import ops
from tools import to_numpy

from keras_ddpm import GaussianDiffusion, OptimalDenoiser, sample
from keras_ddpm.samplers import SAMPLERS

DIFFUSION = GaussianDiffusion(prediction="start")
T = np.int32([0, 0, 0, 0, 1, 3, 10, 50, 200, 600, 999])


def posterior_mean(data, x_t, t, allowed=True):
    """Karras et al. (2022), eq. 57, in float64."""
    a = DIFFUSION.alphas_cumprod[t].reshape(-1, 1)
    data64, x64 = data.reshape(len(data), -1).astype("float64"), x_t.reshape(len(x_t), -1)
    distances = ((x64[:, None] - np.sqrt(a)[..., None] * data64) ** 2).sum(-1)
    logits = np.where(allowed, -distances / (2 * (1 - a)), -np.inf)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights @ data64 / weights.sum(1, keepdims=True)).reshape(x_t.shape)


def noisy(data):
    """One x_t of random data for each entry of `T`."""
    rng = np.random.default_rng(0)
    x_start = data[rng.integers(len(data), size=len(T))]
    a = DIFFUSION.alphas_cumprod[T].reshape(-1, *[1] * (data.ndim - 1))
    x_t = np.sqrt(a) * x_start + np.sqrt(1 - a) * rng.standard_normal(x_start.shape)
    return x_t.astype("float32")


@pytest.mark.parametrize("shape, spread", [((2,), 0.01), ((4, 4, 3), 0.002)])
def test_it_is_the_posterior_mean(shape, spread):
    """The data are so close together that several have weight even at t = 0."""
    data = np.random.default_rng(1).standard_normal((1000, *shape))
    data = (0.7 + spread * data).astype("float32")
    x_t = noisy(data)
    expected = posterior_mean(data, x_t, T)
    nearest = np.abs(expected[:4, None] - data[None]).reshape(4, len(data), -1).max(-1).min(1)
    assert nearest.max() > 1e-4  # a mean of several data
    found = to_numpy(OptimalDenoiser(data, DIFFUSION)(ops.convert_to_tensor(x_t), T))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_label_restricts_the_mean_to_its_class():
    data = np.random.default_rng(1).standard_normal((30, 2)).astype("float32")
    labels = np.arange(30) % 3
    label = np.int32([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 3])  # 3: no label
    x_t = noisy(data)
    allowed = (labels == label[:, None]) | (label[:, None] == 3)
    denoiser = OptimalDenoiser(data, DIFFUSION, labels)
    found = to_numpy(denoiser(x_t, T, label))
    np.testing.assert_allclose(found, posterior_mean(data, x_t, T, allowed), atol=1e-5)
    np.testing.assert_allclose(to_numpy(denoiser(x_t, T)), posterior_mean(data, x_t, T), atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_on_the_data_from_a_timestep_without_signal(sampler):
    """Each sample is one of four uint8 images, of which one is there nine times."""
    diffusion = GaussianDiffusion(prediction="velocity", zero_terminal_snr=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1), "uint8")
    denoiser = OptimalDenoiser(images[[0] * 9 + [1, 2, 3]], diffusion)
    noise = np.random.default_rng(1).standard_normal((96, 3, 3, 1)).astype("float32")
    options = {"max_growth": np.inf} if sampler == "heun" else {}  # corrects every other step
    samples = to_numpy(sample(denoiser, diffusion, noise, sampler, steps=30, **options))
    distances = np.abs(samples[:, None] - (images / 127.5 - 1)).max((2, 3, 4))
    assert distances.min(1).max() < 1e-3
    counts = np.bincount(distances.argmin(1), minlength=4)
    assert (np.abs(counts - [72, 8, 8, 8]) < 5 * np.sqrt([18, 7.4, 7.4, 7.4])).all()
    assert (counts > 0).all()
