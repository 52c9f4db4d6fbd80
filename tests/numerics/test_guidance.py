"""Classifier-free guidance: the formula, and how `generate` applies it."""

import numpy as np
from tools import compiled, make_model, shared_model, tiny_network, to_numpy

from keras_ddpm import GaussianDiffusion
from keras_ddpm.model import generation
from keras_ddpm.samplers.noise import initial_noise


def test_guidance_mixes_the_two_predicted_noises():
    """Also where the network predicts something else; with a scale for each image."""
    network = tiny_network(num_classes=3)
    diffusion = GaussianDiffusion(20, "cosine", prediction="velocity")
    model = make_model(3, network=network, diffusion=diffusion)
    x_t, t, label = initial_noise(0, (4, 8, 8, 1)), np.full(4, 13, "int32"), np.int32([0, 1, 2, 0])
    scales = np.float32([0.0, 1.0, 2.0, 7.5])
    predict = compiled(network)

    def noise_of(label):
        start = diffusion.predict_start(x_t, t, predict([x_t, t, label]))
        return to_numpy(diffusion.predict_noise_from_start(x_t, t, start))

    unconditional, conditional = noise_of(np.full(4, 3, "int32")), noise_of(label)
    mixed = unconditional + scales[:, None, None, None] * (conditional - unconditional)
    expected = to_numpy(diffusion.predict_start_from_noise(x_t, t, mixed))
    assert np.abs(conditional - unconditional).max() > 0.05

    options = {"timesteps": [13], "noise": x_t, "clip_denoised": False}
    found = model.generate(labels=label, guidance_scale=scales, **options)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    found = model.generate(labels=label, guidance_scale=0.0, **options)
    expected = to_numpy(diffusion.predict_start_from_noise(x_t, t, unconditional))
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_scale_one_is_the_prediction_for_the_label_without_a_doubled_batch(monkeypatch):
    model, doubled, guide = shared_model(3), [], generation.guide
    monkeypatch.setattr(generation, "guide", lambda *args: doubled.append(True) or guide(*args))
    monkeypatch.setattr(model, "_sampling_loop", None)  # a new one, which is traced
    options = {"labels": [0, 1, 2], "steps": 4, "seed": 0}
    plain = model.generate(**options)
    np.testing.assert_array_equal(model.generate(guidance_scale=1.0, **options), plain)
    assert not doubled
    guided = model.generate(guidance_scale=[1.0, 1.0, 3.0], **options)
    assert doubled
    np.testing.assert_allclose(guided[:2], plain[:2], atol=1e-4)
    assert np.abs(guided[2] - plain[2]).max() > 0.01
