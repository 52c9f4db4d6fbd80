"""Static clipping and dynamic thresholding of the predicted image."""

import numpy as np
import pytest
from keras import ops
from tools import to_numpy

from keras_ddpm import DDIM, GaussianDiffusion, sample
from keras_ddpm.clipping import clip_start

IMAGES = np.random.default_rng(0).normal(0, 2, (3, 4, 5, 2)).astype("float32")


def test_false_leaves_and_true_clips():
    np.testing.assert_array_equal(to_numpy(clip_start(IMAGES, False)), IMAGES)
    for true in (True, np.True_):
        np.testing.assert_array_equal(to_numpy(clip_start(IMAGES, true)), np.clip(IMAGES, -1, 1))


@pytest.mark.parametrize("percentile", [0.5, 0.995])
def test_dynamic_thresholding_divides_each_image_by_its_percentile(percentile):
    images = IMAGES * np.float32([0.1, 0.7, 3.0])[:, None, None, None]
    results = to_numpy(clip_start(ops.convert_to_tensor(images), percentile))
    for image, found in zip(images.astype("float64"), results):
        s = max(np.quantile(np.abs(image), percentile), 1)
        np.testing.assert_allclose(found, np.clip(image, -s, s) / s, atol=1e-6)


def test_sampling_uses_it():
    diffusion = GaussianDiffusion(20, "cosine", prediction="start")
    images = ops.convert_to_tensor(IMAGES)
    found = sample(lambda x_t, t: images, diffusion, IMAGES, steps=4, clip_denoised=0.8)
    np.testing.assert_allclose(to_numpy(found), to_numpy(clip_start(images, 0.8)), atol=1e-5)


@pytest.mark.parametrize("prediction", ["start", "noise"])
def test_the_noise_of_a_step_follows_from_the_clipped_start(prediction):
    """One step of DDIM in float64."""
    diffusion = GaussianDiffusion(20, "cosine", prediction=prediction)
    x_t, output = np.random.default_rng(1).normal(0, 2, (2, *IMAGES.shape)).astype("float32")
    tensor = ops.convert_to_tensor(output)
    options = {"clip_denoised": True, "return_trajectory": True}
    _, found = sample(lambda x_t, t: tensor, diffusion, x_t, DDIM(timesteps=(12, 5)), **options)
    a, b = diffusion.alphas_cumprod[[12, 5]]
    start = output if prediction == "start" else (x_t - np.sqrt(1 - a) * output) / np.sqrt(a)
    start = np.clip(start, -1, 1)
    noise = (x_t - np.sqrt(a) * start) / np.sqrt(1 - a)
    expected = np.sqrt(b) * start + np.sqrt(1 - b) * noise
    np.testing.assert_allclose(found.x_start[0], start, atol=1e-5)
    np.testing.assert_allclose(found.x_t[1], expected, atol=1e-5)
