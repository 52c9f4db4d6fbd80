"""The optimal denoiser against float64 NumPy, and where sampling with it ends."""

import numpy as np
import pytest
from conftest import to_numpy
from keras import ops

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm import optimal as module
from keras_ddpm.data.points import draw_mixture
from keras_ddpm.metrics import frechet_distance, kernel_distance
from keras_ddpm.optimal import OptimalDenoiser

DIFFUSION = GaussianDiffusion(prediction="start")


def posterior_mean(data, x_t, t, allowed=True):
    """Eq. 57 of Karras et al. (2022), straight on, in float64."""
    a = DIFFUSION.alphas_cumprod[t].reshape(-1, 1)
    data64, x64 = data.reshape(len(data), -1).astype("float64"), x_t.reshape(len(x_t), -1)
    distances = ((x64[:, None] - np.sqrt(a)[..., None] * data64) ** 2).sum(-1)
    logits = np.where(allowed, -distances / (2 * (1 - a)), -np.inf)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return (weights @ data64 / weights.sum(1, keepdims=True)).reshape(x_t.shape)


def noisy(data, t, seed=0):
    """One x_t for each entry of `t`, of random data."""
    rng = np.random.default_rng(seed)
    x_start = data[rng.integers(len(data), size=len(t))]
    a = DIFFUSION.alphas_cumprod[t].reshape(-1, *[1] * (data.ndim - 1))
    return (np.sqrt(a) * x_start + np.sqrt(1 - a) * rng.standard_normal(x_start.shape)).astype(
        "float32"
    )


T = np.int32([0, 0, 0, 0, 1, 3, 10, 50, 200, 600, 999])


@pytest.mark.parametrize("shape", [(2,), (4, 4, 3)], ids=["points", "images"])
def test_it_is_the_posterior_mean(shape, monkeypatch):
    """The data are so close together that several have weight even at t = 0."""
    monkeypatch.setattr(module, "CHUNK", 640)  # several chunks, the last one not full
    data = np.random.default_rng(1).standard_normal((1000, *shape))
    data = (0.7 + (0.01 if shape == (2,) else 0.002) * data).astype("float32")
    x_t = noisy(data, T)
    expected = posterior_mean(data, x_t, T)
    nearest = np.abs(expected[:4, None] - data[None]).reshape(4, len(data), -1).max(-1).min(1)
    assert nearest.max() > 1e-4  # a mean indeed, and no single datum
    found = to_numpy(OptimalDenoiser(data, DIFFUSION)(ops.convert_to_tensor(x_t), T))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_labels_restrict_the_mean_to_a_class():
    data = np.random.default_rng(1).standard_normal((30, 2)).astype("float32")
    labels = np.arange(30) % 3
    label = np.int32([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 3])  # 3: no label
    x_t = noisy(data, T)
    allowed = (labels == label[:, None]) | (label[:, None] == 3)
    denoiser = OptimalDenoiser(data, DIFFUSION, labels)
    found = to_numpy(denoiser(x_t, T, label))
    np.testing.assert_allclose(found, posterior_mean(data, x_t, T, allowed), atol=1e-5)
    np.testing.assert_allclose(to_numpy(denoiser(x_t, T)), posterior_mean(data, x_t, T), atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are using a softmax")  # over one datum: that it is 1
def test_one_datum_is_all_there_is_and_between_two_alike_lies_the_middle():
    t = np.int32([0, 500, 999])
    one = to_numpy(OptimalDenoiser(np.float32([[3.0, -1.0]]), DIFFUSION)(np.ones((3, 2), "f4"), t))
    np.testing.assert_allclose(one, [[3, -1]] * 3, rtol=1e-6)
    pair = np.float32([[1.0, 2.0], [-1.0, -2.0]])
    middle = to_numpy(OptimalDenoiser(pair, DIFFUSION)(np.zeros((3, 2), "f4"), t))
    np.testing.assert_array_equal(middle, 0)


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_sampling_ends_on_the_data(prediction):
    """In a compiled loop, on images of bytes: each sample is a datum, and all of them appear."""
    diffusion = GaussianDiffusion(prediction=prediction)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1), "uint8")
    noise = np.random.default_rng(1).standard_normal((24, 3, 3, 1)).astype("float32")
    samples = to_numpy(sample(OptimalDenoiser(images, diffusion), diffusion, noise, steps=30))
    distances = np.abs(samples[:, None] - (images / 127.5 - 1)).max((2, 3, 4))
    assert distances.min(1).max() < 1e-3
    assert set(distances.argmin(1)) == {0, 1, 2, 3}


@pytest.mark.once
@pytest.mark.parametrize(
    "data, labels, error, message",
    [
        (np.zeros((0, 2)), None, ValueError, r"got shape \(0, 2\)"),
        (np.zeros((3, 2), int), None, TypeError, "got dtype int64"),
        (np.full((3, 2), np.nan), None, ValueError, "NaN or infinite"),
        (np.zeros((3, 2)), [0, 1], ValueError, r"must be \(3,\)"),
        (np.zeros((3, 2)), [0.0, 1.0, 1.0], TypeError, "got dtype float64"),
        (np.zeros((3, 2)), [0, 2, 2], ValueError, r"each at least once, got \[0 2\]"),
    ],
)
def test_wrong_data(data, labels, error, message):
    with pytest.raises(error, match=message):
        OptimalDenoiser(data, DIFFUSION, labels)


@pytest.mark.once
def test_wrong_calls():
    denoiser = OptimalDenoiser(np.zeros((3, 2)), DIFFUSION)
    with pytest.raises(ValueError, match=r"shape \(3,\), but the data have \(2,\)"):
        denoiser(np.zeros((1, 3)), np.int32([0]))
    with pytest.raises(ValueError, match="made without labels"):
        denoiser(np.zeros((1, 2)), np.int32([0]), np.int32([0]))


@pytest.mark.once
def test_with_fewer_steps_its_samples_are_farther_from_the_data():
    """In both distances: what is measured is the sampler, for the denoiser makes no mistake."""
    data, _ = draw_mixture(1000, modes=3, std=0.2)
    denoiser = OptimalDenoiser(data, DIFFUSION)
    noise = np.random.default_rng(1).standard_normal((1000, 2)).astype("float32")
    by_steps = [sample(denoiser, DIFFUSION, noise, steps=steps) for steps in (16, 4, 2, 1)]
    by_steps = list(map(to_numpy, by_steps))
    frechet = [frechet_distance(samples, data) for samples in by_steps]
    kernel = [kernel_distance(samples, data)[0] for samples in by_steps]
    assert frechet == sorted(frechet) and kernel == sorted(kernel)
    assert frechet[1] > 3 * frechet[0] and kernel[1] > 3 * kernel[0]
