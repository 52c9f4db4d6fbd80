"""The diffusion process against slow float64 references, and its errors."""

import math

import keras
import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_ddpm import GaussianDiffusion
from keras_ddpm.backend import compile_function

BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000).tolist(),
    "custom": [0.1, 0.4, 0.2, 0.9, 0.999],
}
shapes = st.lists(st.integers(1, 4), max_size=4).map(lambda rest: (5, *rest))


def cosine(**kwargs):
    return GaussianDiffusion(100, schedule="cosine", **kwargs)


def batch(shape, seed=0):
    """x_0, noise and different timesteps, the first of them 0."""
    rng = np.random.default_rng(seed)
    t = np.array([0, 1, 37, 98, 99], "int32")[: shape[0]]
    x_start, noise = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    return x_start, t, noise


def column(values, shape):
    return np.reshape(values, (-1,) + (1,) * (len(shape) - 1))


# ---- tables ------------------------------------------------------------


@pytest.mark.parametrize("name", BETAS)
def test_tables_agree_with_a_loop_over_products(name):
    betas = BETAS[name]
    d = GaussianDiffusion(betas=betas)
    assert d.timesteps == len(betas)
    previous, variances = 1.0, []
    for t, beta in enumerate(betas):
        product = previous * (1 - beta)
        expected = {
            "betas": beta,
            "alphas_cumprod": product,
            "alphas_cumprod_prev": previous,
            "sqrt_alphas_cumprod": math.sqrt(product),
            "sqrt_one_minus_alphas_cumprod": math.sqrt(1 - product),
            "log_one_minus_alphas_cumprod": math.log(1 - product),
            "sqrt_recip_alphas_cumprod": math.sqrt(1 / product),
            "sqrt_recipm1_alphas_cumprod": math.sqrt(1 / product - 1),
            "posterior_variance": beta * (1 - previous) / (1 - product),
            "posterior_mean_coef1": beta * math.sqrt(previous) / (1 - product),
            "posterior_mean_coef2": (1 - previous) * math.sqrt(1 - beta) / (1 - product),
        }
        for table, value in expected.items():
            assert getattr(d, table).dtype == np.float64
            assert getattr(d, table)[t] == pytest.approx(value, rel=1e-9, abs=1e-15), (table, t)
        variances.append(expected["posterior_variance"])
        previous = product
    variances[0] = variances[1]  # the first has no logarithm
    np.testing.assert_allclose(d.posterior_log_variance_clipped, np.log(variances), rtol=1e-9)


@pytest.mark.parametrize("name", BETAS)
def test_posterior_is_bayes_rule(name):
    """q(x_{t-1} | x_t, x_0) as the product of two Gaussians in x_{t-1}, in float64."""
    d = GaussianDiffusion(betas=BETAS[name])
    x_start, x_t = 0.7, -1.3
    for t in range(1, d.timesteps):
        beta, before = BETAS[name][t], math.prod(1 - b for b in BETAS[name][:t])
        # prior N(sqrt(before) x_0, 1 - before), likelihood N(x_t; sqrt(1 - beta) x_{t-1}, beta)
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = math.sqrt(before) * x_start / (1 - before) + math.sqrt(1 - beta) * x_t / beta
        ours = d.posterior_mean_coef1[t] * x_start + d.posterior_mean_coef2[t] * x_t
        assert ours == pytest.approx(mean / precision, rel=1e-8)
        assert d.posterior_variance[t] == pytest.approx(1 / precision, rel=1e-8)


def test_posterior_as_tensors_is_the_table():
    d, (x_start, t, x_t) = cosine(), batch((5, 2, 3))
    mean, variance, log_variance = map(to_numpy, d.q_posterior_mean_variance(x_start, x_t, t))
    c1, c2 = (column(c[t], mean.shape) for c in (d.posterior_mean_coef1, d.posterior_mean_coef2))
    np.testing.assert_allclose(mean, c1 * x_start + c2 * x_t, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, column(d.posterior_variance[t], mean.shape), rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_variance[1:]), variance[1:], rtol=1e-5)
    assert variance[0] == 0 and np.exp(log_variance[0]) > 0


# ---- the forward process ------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_q_sample_mixes_signal_and_noise_for_any_rank(shape):
    d, (x_start, t, noise) = cosine(), batch(shape)
    signal = column(d.alphas_cumprod[t], shape)
    x_t = to_numpy(d.q_sample(x_start, t, noise))
    expected = np.sqrt(signal) * x_start + np.sqrt(1 - signal) * noise
    np.testing.assert_allclose(x_t, expected, rtol=1e-5, atol=1e-6)
    assert x_t.shape == shape
    mean, variance, log_variance = map(to_numpy, d.q_mean_variance(x_start, t))
    np.testing.assert_allclose(mean, np.sqrt(signal) * x_start, rtol=1e-5)
    np.testing.assert_allclose(variance, 1 - signal, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_variance), 1 - signal, rtol=1e-5)


def test_q_sample_has_the_moments_of_single_steps_one_after_another():
    """x_t from t small steps, x_{s+1} = sqrt(1 - beta) x_s + sqrt(beta) noise, in one go."""
    d, rng, t = cosine(), np.random.default_rng(0), 40
    x = np.full(100_000, 2.0)
    for beta in d.betas[: t + 1]:
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * rng.standard_normal(x.shape)
    mean, variance, _ = map(to_numpy, d.q_mean_variance(np.full((1, 1), 2.0), np.int32([t])))
    assert mean.item() == pytest.approx(x.mean(), abs=5 * x.std() / math.sqrt(x.size))
    assert variance.item() == pytest.approx(x.var(), rel=5 * math.sqrt(2 / x.size))


# ---- one prediction from another ------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_start_noise_and_velocity_round_trip_for_any_rank(shape):
    d, (x_start, t, noise) = cosine(), batch(shape)
    t = np.minimum(t, 90)  # at the last step, dividing by the signal amplifies rounding
    x_t, v = d.q_sample(x_start, t, noise), d.velocity(x_start, t, noise)
    for found, expected in (
        (d.predict_start_from_noise(x_t, t, noise), x_start),
        (d.predict_start_from_velocity(x_t, t, v), x_start),
        (d.predict_noise_from_start(x_t, t, x_start), noise),
        (d.predict_noise_from_velocity(x_t, t, v), noise),
    ):
        np.testing.assert_allclose(to_numpy(found), expected, atol=5e-5)


def test_velocity_is_the_derivative_by_the_angle():
    """v = d x_t / d phi, where the signal's rate is cos(phi) and the noise's is sin(phi)."""
    d, (x_start, t, noise) = cosine(), batch((5, 3))
    phi, h = column(np.arccos(d.sqrt_alphas_cumprod[t]), noise.shape), 1e-5
    x = [np.cos(p) * x_start + np.sin(p) * noise for p in (phi - h, phi + h)]
    v = to_numpy(d.velocity(x_start, t, noise))
    np.testing.assert_allclose(v, (x[1] - x[0]) / (2 * h), atol=1e-4)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_every_prediction_gives_the_posterior_of_the_true_start(prediction, variance):
    d, (x_start, t, noise) = cosine(prediction=prediction, variance=variance), batch((5, 2, 2, 1))
    t = np.minimum(t, 90)
    x_t = d.q_sample(x_start, t, noise)
    output = d.target(x_start, t, noise)
    mean, _, _, start = map(to_numpy, d.p_mean_variance(output, x_t, t))
    np.testing.assert_allclose(start, x_start, atol=5e-5)
    expected = d.q_posterior_mean_variance(x_start, x_t, t)[0]
    np.testing.assert_allclose(mean, to_numpy(expected), atol=5e-5)


def test_target_is_what_the_prediction_names():
    x_start, t, noise = batch((5, 3))
    np.testing.assert_array_equal(to_numpy(cosine().target(x_start, t, noise)), noise)
    start = cosine(prediction="start").target(x_start, t, noise)
    np.testing.assert_array_equal(to_numpy(start), x_start)
    d = cosine(prediction="velocity")
    v = to_numpy(d.target(x_start, t, noise))
    np.testing.assert_array_equal(v, to_numpy(d.velocity(x_start, t, noise)))


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_reverse_variance_is_the_one_chosen(variance):
    d, (x_start, t, noise) = cosine(variance=variance), batch((5, 2))
    _, found, log_found, _ = map(to_numpy, d.p_mean_variance(noise, x_start, t))
    expected = (d.posterior_variance if variance == "posterior" else d.betas)[t]
    np.testing.assert_allclose(found[1:, 0], expected[1:], rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_found[1:, 0]), expected[1:], rtol=1e-5)
    # t = 0 borrows the logarithm of t = 1: beta-tilde is zero there
    assert np.exp(log_found[0, 0]) == pytest.approx(d.posterior_variance[1], rel=1e-5)


def test_clip_denoised_keeps_the_predicted_start_in_the_range_of_images():
    d, (x_start, t, noise) = cosine(prediction="start"), batch((5, 4, 4, 1))
    free = to_numpy(d.p_mean_variance(3 * x_start, noise, t)[3])
    np.testing.assert_allclose(free, 3 * x_start)
    mean, _, _, start = map(to_numpy, d.p_mean_variance(3 * x_start, noise, t, clip_denoised=True))
    clipped = np.clip(3 * x_start, -1, 1)
    np.testing.assert_allclose(start, clipped)
    expected = d.q_posterior_mean_variance(clipped, noise, t)[0]
    np.testing.assert_allclose(mean, to_numpy(expected), rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(shapes)
def test_p_sample_adds_the_step_noise_except_at_the_last_step(shape):
    d, (output, t, x_t) = cosine(), batch(shape)
    mean, _, log_variance, _ = map(to_numpy, d.p_mean_variance(output, x_t, t, True))
    x = to_numpy(d.p_sample(output, x_t, t, np.ones(shape, "float32"), True))
    added = np.broadcast_to(np.exp(0.5 * log_variance), shape).copy()
    added[0] = 0  # the first of the batch is at t = 0
    np.testing.assert_allclose(x - mean, added, atol=1e-5)
    assert added[1:].min() > 0


# ---- dtypes and compilation ------------------------------------------------------------


def all_results(d, x, t, noise):
    return [
        d.q_sample(x, t, noise),
        *d.q_mean_variance(x, t),
        *d.q_posterior_mean_variance(x, noise, t),
        d.predict_start_from_noise(x, t, noise),
        d.predict_noise_from_start(x, t, noise),
        d.velocity(x, t, noise),
        d.predict_start_from_velocity(x, t, noise),
        d.predict_noise_from_velocity(x, t, noise),
        d.target(x, t, noise),
        *d.p_mean_variance(noise, x, t, True),
        d.p_sample(noise, x, t, noise),
    ]


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_compiled_methods_give_the_eager_numbers(prediction):
    d, (x, t, noise) = cosine(prediction=prediction), batch((5, 2, 2))
    x, t, noise = map(ops.convert_to_tensor, (x, t, noise))
    assert keras.backend.standardize_dtype(t.dtype) == "int32"
    compiled = compile_function(lambda *inputs: all_results(d, *inputs), [], True)
    for ours, eager in zip(compiled(x, t, noise), all_results(d, x, t, noise)):
        np.testing.assert_allclose(to_numpy(ours), to_numpy(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["noise", "start", "velocity"])
def test_results_are_float32_for_bfloat16_inputs_and_policy(prediction, dtype_policy):
    dtype_policy("mixed_bfloat16")
    d, (x, t, noise) = cosine(prediction=prediction), batch((5, 2, 2))
    x, noise = (ops.cast(a, "bfloat16") for a in (x, noise))
    for result in all_results(d, x, t, noise):
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
    exact = to_numpy(d.q_sample(ops.cast(x, "float32"), t, ops.cast(noise, "float32")))
    np.testing.assert_array_equal(to_numpy(d.q_sample(x, t, noise)), exact)


@pytest.mark.parametrize("prediction", ["start", "velocity"])
def test_a_last_beta_of_one_leaves_pure_noise_and_finite_steps(prediction):
    d = GaussianDiffusion(betas=[0.1, 0.5, 1.0], prediction=prediction)
    x_start, noise, t = np.full((3, 2), 0.3, "float32"), np.ones((3, 2), "float32"), [0, 1, 2]
    t = np.int32(t)
    x_t = to_numpy(d.q_sample(x_start, t, noise))
    np.testing.assert_array_equal(x_t[2], noise[2])
    output = d.target(x_start, t, noise)
    np.testing.assert_allclose(to_numpy(d.predict_start(x_t, t, output)), x_start, atol=1e-6)
    assert np.isfinite(to_numpy(d.p_sample(output, x_t, t, noise))).all()


# ---- configuration ------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {"timesteps": 1000},
        {"timesteps": 300, "beta_start": 3e-4, "beta_end": 0.07, "variance": "beta"},
        {"timesteps": 20, "schedule": "cosine", "prediction": "velocity"},
        {"betas": (0.1, 0.3, 0.999), "prediction": "start"},
        {"betas": np.array([0.5, 1.0]), "prediction": "velocity"},
    ],
)
def test_config_round_trip(kwargs):
    d = GaussianDiffusion(**kwargs)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(d))
    assert type(again) is GaussianDiffusion
    np.testing.assert_array_equal(again.betas, d.betas)
    assert (again.timesteps, again.prediction) == (d.timesteps, d.prediction)
    np.testing.assert_array_equal(again.model_log_variance, d.model_log_variance)
    assert again.get_config() == d.get_config()


# ---- wrong input ------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"timesteps": 0}, ValueError, "timesteps must be at least 1, got 0"),
        ({"timesteps": -5}, ValueError, "timesteps must be at least 1, got -5"),
        ({"timesteps": 10.5}, TypeError, "timesteps must be an int, got 10.5"),
        ({"timesteps": "100"}, TypeError, "timesteps must be an int, got '100'"),
        ({"timesteps": True}, TypeError, "timesteps must be an int, got True"),
        ({"betas": [0.1, 0.0]}, ValueError, r"betas\[1\] = 0.0 .*must lie in \(0, 1\)"),
        ({"betas": [0.1, -0.2, 0.5]}, ValueError, r"betas\[1\] = -0.2"),
        ({"betas": [0.1, 1.5]}, ValueError, r"betas\[1\] = 1.5"),
        ({"betas": [float("nan"), 0.5]}, ValueError, r"betas\[0\] = nan"),
        ({"betas": [0.5, float("nan")]}, ValueError, r"betas\[1\] = nan"),
        ({"betas": [0.1, 1.0, 0.5]}, ValueError, r"betas\[1\] = 1.0 .*only the last may be 1"),
        (
            {"betas": [0.5, 1.0]},
            ValueError,
            "prediction='noise' does not go with .*Use prediction='velocity'",
        ),
        ({"betas": [[0.1, 0.2]]}, ValueError, r"1-D sequence of floats, got shape \(1, 2\)"),
        ({"betas": []}, ValueError, r"1-D sequence of floats, got shape \(0,\)"),
        ({"betas": [0.1, 0.9], "timesteps": 3}, ValueError, "timesteps=3 .* 2 betas"),
        ({"beta_end": 1.2}, ValueError, r"betas\[\d+\] = 1.0.* must lie in \(0, 1\)"),
        ({"schedule": "cosin"}, ValueError, "schedule='cosin' is unknown.*did you mean 'cosine'"),
        ({"prediction": "noises"}, ValueError, "prediction='noises'.*did you mean 'noise'"),
        ({"prediction": 3}, ValueError, r"prediction=3.*\['noise', 'start', 'velocity'\]"),
        ({"variance": "betas"}, ValueError, "variance='betas' is unknown.*did you mean 'beta'"),
    ],
)
def test_wrong_arguments_are_named_with_what_would_work(kwargs, error, message):
    with pytest.raises(error, match=message):
        GaussianDiffusion(**kwargs)
