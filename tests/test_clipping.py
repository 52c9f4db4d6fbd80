"""Static clipping and dynamic thresholding of the predicted image."""

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm.clipping import check_clip_denoised, clip_start

IMAGES = np.random.default_rng(0).normal(0, 2, (3, 4, 5, 2)).astype("float32")


def test_false_leaves_and_true_clips():
    np.testing.assert_array_equal(to_numpy(clip_start(IMAGES, False)), IMAGES)
    np.testing.assert_array_equal(to_numpy(clip_start(IMAGES, True)), np.clip(IMAGES, -1, 1))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.999), st.sampled_from([0.1, 0.7, 3.0]))
def test_dynamic_thresholding_divides_by_each_images_percentile(percentile, scale):
    images = IMAGES * scale
    found = to_numpy(clip_start(images, percentile))
    for image, result in zip(images.astype("float64"), found):
        s = max(np.quantile(np.abs(image), percentile), 1)
        np.testing.assert_allclose(result, np.clip(image, -s, s) / s, atol=1e-6)


def test_images_in_range_stay_as_they_are():
    quiet = np.tanh(IMAGES)
    np.testing.assert_allclose(to_numpy(clip_start(quiet, 0.995)), quiet, atol=1e-7)


def test_sampling_uses_it():
    diffusion = GaussianDiffusion(20, "cosine", prediction="start")
    found = sample(lambda x_t, t: IMAGES, diffusion, IMAGES, steps=4, clip_denoised=0.8)
    np.testing.assert_allclose(to_numpy(found), to_numpy(clip_start(IMAGES, 0.8)), atol=1e-5)


@pytest.mark.parametrize("value", [0, 1, 1.0, 0.0, -0.5, float("nan"), "dynamic", None])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="clip_denoised=.* must be True, False, or a percentile"):
        check_clip_denoised(value)


def test_a_numpy_bool_is_a_bool():
    np.testing.assert_array_equal(to_numpy(clip_start(IMAGES, np.True_)), np.clip(IMAGES, -1, 1))


def test_the_formula_itself_refuses_what_is_no_choice():
    with pytest.raises(ValueError, match="clip_denoised=1.5 must be True, False"):
        clip_start(IMAGES, 1.5)
