"""The diffusion process against float64 references in NumPy."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from tools import to_numpy

from keras_ddpm import GaussianDiffusion
from keras_ddpm.backend import compile_function

BETAS = [0.1, 0.4, 0.2, 0.9, 0.999]
# The last steps are left out: they divide by hardly any signal, which amplifies rounding.
T = np.int32([0, 1, 37, 80, 90])


def cosine(**kwargs):
    return GaussianDiffusion(100, "cosine", **kwargs)


def draw(shape=(5, 3)):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for _ in range(2)]


def column(values, shape):
    return np.reshape(values, (-1,) + (1,) * (len(shape) - 1))


@pytest.mark.once
def test_tables_agree_with_single_steps_one_after_another():
    """x_{t+1} = sqrt(1 - beta) x_t + sqrt(beta) noise."""
    d = GaussianDiffusion(betas=BETAS)
    assert d.timesteps == len(BETAS)
    signal, noise = 1.0, 0.0  # of the state before t
    for t, beta in enumerate(BETAS):
        product, total = signal * (1 - beta), noise * (1 - beta) + beta
        expected = {
            "betas": beta,
            "alphas_cumprod": product,
            "alphas_cumprod_prev": signal,
            "sqrt_alphas_cumprod": math.sqrt(product),
            "sqrt_one_minus_alphas_cumprod": math.sqrt(total),
            "log_one_minus_alphas_cumprod": math.log(total),
            "sqrt_recip_alphas_cumprod": math.sqrt(1 / product),
            "sqrt_recipm1_alphas_cumprod": math.sqrt(total / product),
        }
        for table, value in expected.items():
            assert getattr(d, table).dtype == np.float64
            assert getattr(d, table)[t] == pytest.approx(value, rel=1e-9, abs=1e-15), (table, t)
        signal, noise = product, total


@pytest.mark.once
def test_the_posterior_is_that_of_bayes_rule():
    """q(x_{t-1} | x_t, x_0) as the product of two Gaussians in x_{t-1}."""
    d = GaussianDiffusion(betas=BETAS)
    x_start, x_t = 0.7, -1.3
    for t in range(1, d.timesteps):
        beta, before = BETAS[t], math.prod(1 - b for b in BETAS[:t])
        # prior N(sqrt(before) x_0, 1 - before), likelihood N(x_t; sqrt(1 - beta) x_{t-1}, beta)
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = math.sqrt(before) * x_start / (1 - before) + math.sqrt(1 - beta) * x_t / beta
        found = d.posterior_mean_coef1[t] * x_start + d.posterior_mean_coef2[t] * x_t
        assert found == pytest.approx(mean / precision, rel=1e-8)
        assert d.posterior_variance[t] == pytest.approx(1 / precision, rel=1e-8)
    # At t = 0 it is x_0 itself. A variance of 0 has no logarithm, and that of t = 1 replaces it.
    found = [d.posterior_mean_coef1[0], d.posterior_mean_coef2[0], d.posterior_variance[0]]
    assert found == pytest.approx([1, 0, 0])
    variances = [d.posterior_variance[1], *d.posterior_variance[1:]]
    np.testing.assert_allclose(d.posterior_log_variance_clipped, np.log(variances), rtol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2, 1)], ids=str)
def test_q_sample_mixes_signal_and_noise(shape):
    d, (x_start, noise) = cosine(), draw(shape)
    signal = column(d.alphas_cumprod[T], shape)
    x_t = to_numpy(d.q_sample(x_start, T, noise))
    expected = np.sqrt(signal) * x_start + np.sqrt(1 - signal) * noise
    np.testing.assert_allclose(x_t, expected, rtol=1e-5, atol=1e-6)
    assert x_t.shape == shape
    mean, variance, log_variance = map(to_numpy, d.q_mean_variance(x_start, T))
    np.testing.assert_allclose(mean, np.sqrt(signal) * x_start, rtol=1e-5)
    np.testing.assert_allclose(variance, 1 - signal, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_variance), 1 - signal, rtol=1e-5)


def test_start_noise_and_velocity_follow_from_each_other():
    d, (x_start, noise) = cosine(), draw()
    x_t, v = d.q_sample(x_start, T, noise), d.velocity(x_start, T, noise)
    for found, expected in (
        (d.predict_start_from_noise(x_t, T, noise), x_start),
        (d.predict_start_from_velocity(x_t, T, v), x_start),
        (d.predict_noise_from_start(x_t, T, x_start), noise),
        (d.predict_noise_from_velocity(x_t, T, v), noise),
    ):
        np.testing.assert_allclose(to_numpy(found), expected, atol=5e-5)


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_the_target_of_each_prediction_gives_the_posterior_of_the_true_start(prediction):
    d, (x_start, noise) = cosine(prediction=prediction), draw()
    x_t, target = d.q_sample(x_start, T, noise), d.target(x_start, T, noise)
    named = {"noise": noise, "start": x_start, "velocity": d.velocity(x_start, T, noise)}
    np.testing.assert_array_equal(to_numpy(target), to_numpy(named[prediction]))
    mean, _, _, start = map(to_numpy, d.p_mean_variance(target, x_t, T))
    np.testing.assert_allclose(start, x_start, atol=5e-5)
    c1, c2 = (column(c[T], mean.shape) for c in (d.posterior_mean_coef1, d.posterior_mean_coef2))
    np.testing.assert_allclose(mean, c1 * x_start + c2 * to_numpy(x_t), atol=5e-5)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_reverse_variance_is_the_chosen_one(variance):
    d, (x_start, noise) = cosine(variance=variance), draw()
    posterior, log_posterior = map(to_numpy, d.q_posterior_mean_variance(x_start, noise, T)[1:])
    np.testing.assert_allclose(posterior[:, 0], d.posterior_variance[T], rtol=1e-5)
    _, found, log_found, _ = map(to_numpy, d.p_mean_variance(noise, x_start, T))
    expected = (d.posterior_variance if variance == "posterior" else d.betas)[T]
    np.testing.assert_allclose(np.exp(log_found[1:, 0]), expected[1:], rtol=1e-5)
    expected[0] = 0 if variance == "posterior" else d.posterior_variance[1]  # as in their code
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    # At t = 0 the posterior variance is 0, so both logarithms are those of t = 1.
    for log_variance in (log_posterior, log_found):
        assert np.exp(log_variance[0, 0]) == pytest.approx(d.posterior_variance[1], rel=1e-5)


def test_p_sample_clips_the_start_and_adds_noise_except_at_the_last_step():
    d, (output, x_t) = cosine(prediction="start"), draw()
    x = to_numpy(d.p_sample(3 * output, x_t, T, np.ones_like(x_t), clip_denoised=True))
    c1, c2, variance = (
        column(getattr(d, table)[T], x.shape)
        for table in ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
    )
    expected = c1 * np.clip(3 * output, -1, 1) + c2 * x_t + np.sqrt(variance)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert variance[0] == 0 and variance[1:].min() > 0  # the first of the batch is at t = 0


def test_a_last_beta_of_one_leaves_pure_noise_and_finite_steps():
    d, t = GaussianDiffusion(betas=[0.1, 0.5, 1.0], prediction="velocity"), np.int32([0, 1, 2])
    x_start, noise = np.full((3, 2), 0.3, "float32"), np.ones((3, 2), "float32")
    x_t = to_numpy(d.q_sample(x_start, t, noise))
    np.testing.assert_array_equal(x_t[2], noise[2])
    output = d.target(x_start, t, noise)
    np.testing.assert_allclose(to_numpy(d.predict_start(x_t, t, output)), x_start, atol=1e-6)
    assert np.isfinite(to_numpy(d.p_sample(output, x_t, t, noise))).all()


def test_results_are_float32_compiled_or_not_under_any_policy(dtype_policy):
    dtype_policy("mixed_bfloat16")
    d = cosine(prediction="velocity")

    def all_results(x, t, noise):
        return [
            d.q_sample(x, t, noise),
            *d.q_mean_variance(x, t),
            *d.q_posterior_mean_variance(x, noise, t),
            d.predict_start_from_noise(x, t, noise),
            d.predict_noise_from_start(x, t, noise),
            d.velocity(x, t, noise),
            d.predict_start_from_velocity(x, t, noise),
            d.predict_noise_from_velocity(x, t, noise),
            *(cosine(prediction=name).target(x, t, noise) for name in ("noise", "start")),
            *d.p_mean_variance(noise, x, t, True),
            *cosine(prediction="start").p_mean_variance(noise, x, t),
            d.p_sample(noise, x, t, noise),
        ]

    rough = [ops.cast(a, "bfloat16") for a in draw()]
    (x, noise), t = (ops.cast(a, "float32") for a in rough), ops.convert_to_tensor(T)
    compiled, expected = compile_function(all_results, [], True), all_results(x, t, noise)
    for results in (compiled(x, t, noise), all_results(rough[0], t, rough[1])):
        for found, exact in zip(results, expected):
            assert keras.backend.standardize_dtype(found.dtype) == "float32"
            np.testing.assert_allclose(to_numpy(found), to_numpy(exact), rtol=1e-4, atol=1e-5)
