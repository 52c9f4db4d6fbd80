"""The bound in bits per dimension: against float64 loops, and formulas for Gaussian data."""

import math

import numpy as np
import pytest
from conftest import random_weights, tiny_network, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.metrics.likelihood import (
    bits_per_dim,
    discretized_log_likelihood,
    gaussian_divergence,
)
from keras_ddpm.plotting import plot_bits_per_dim

PREDICTIONS = ["noise", "start", "velocity"]
VARIANCES = ["posterior", "beta"]
T = 10
MEAN, STD = 0.1, 0.2  # Gaussian data: 4.5 standard deviations from white


def short(prediction="start", variance="posterior", timesteps=T):
    return GaussianDiffusion(timesteps, "cosine", prediction=prediction, variance=variance)


def random_images(n=5, seed=0):
    """All bytes are there, black and white more often than others."""
    values = np.random.default_rng(seed).integers(-60, 316, (n, 3, 3, 2))
    return np.clip(values, 0, 255).astype("uint8")


def column(values):
    return ops.reshape(values, (-1, 1, 1, 1))


def some_denoiser(x_t, t):
    """No good one: its x̂₀ leaves [-1, 1] now and then."""
    return 0.9 * x_t - 0.1 + 0.03 * column(ops.cast(t, "float32"))


# ---- against a slow reference ------------------------------------------------------------


def reference(images, betas, prediction, variance, clip, seed=0):
    """Terms `(T, n)` and priors `(n,)` of `some_denoiser`, pixel by pixel in float64."""
    n, x0 = len(images), images.astype("float64") / 127.5 - 1
    a = np.cumprod(1 - betas)
    before = np.append(1, a[:-1])
    posterior = betas * (1 - before) / (1 - a)
    terms = np.empty((len(betas), n))
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        for t in range(len(betas)):
            noise = rng.standard_normal(x0.shape[1:], dtype="float32").astype("float64")
            x_t = np.sqrt(a[t]) * x0[i] + np.sqrt(1 - a[t]) * noise
            output = 0.9 * x_t - 0.1 + 0.03 * t
            start = {
                "start": output,
                "noise": (x_t - np.sqrt(1 - a[t]) * output) / np.sqrt(a[t]),
                "velocity": np.sqrt(a[t]) * x_t - np.sqrt(1 - a[t]) * output,
            }[prediction]
            start = np.clip(start, -1, 1) if clip else start
            bits = []
            for x, guess in zip(x0[i].flat, start.flat):
                if t == 0:
                    bits.append(-math.log2(max(bin_mass(x, guess, posterior[1]), 1e-12)))
                    continue
                # both means share their x_t
                gap = betas[t] * np.sqrt(before[t]) / (1 - a[t]) * (x - guess)
                ours = posterior[t] if variance == "posterior" else betas[t]
                ratio = posterior[t] / ours
                nats = (ratio - 1 - math.log(ratio) + gap**2 / ours) / 2
                bits.append(nats / math.log(2))
            terms[t, i] = np.mean(bits)
    kl = (a[-1] * x0**2 - a[-1] - np.log(1 - a[-1])) / 2 / np.log(2)
    return terms, kl.mean((1, 2, 3))


def bin_mass(x, mean, variance):
    """Of a byte's bin, by the complementary error function of Python's own library."""
    scale = 1 / math.sqrt(2 * variance)
    above = 0.0 if x > 0.999 else math.erfc((x + 1 / 255 - mean) * scale) / 2
    below = 1.0 if x < -0.999 else math.erfc((x - 1 / 255 - mean) * scale) / 2
    return below - above


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_every_term_agrees_with_a_loop_over_pixels(prediction, variance, clip):
    d, images = short(prediction, variance), random_images()
    result = bits_per_dim(some_denoiser, images, d, clip_denoised=clip, batch_size=2)
    terms, prior = reference(images, d.betas, prediction, variance, clip)
    np.testing.assert_array_equal(result.timesteps, np.arange(T))
    np.testing.assert_allclose(result.by_timestep, terms.mean(1), rtol=1e-4)
    np.testing.assert_allclose(result.by_timestep_error, terms.std(1, ddof=1) / 5**0.5, rtol=1e-3)
    assert result.prior == pytest.approx(prior.mean(), rel=1e-6)
    assert result.prior_error == pytest.approx(prior.std(ddof=1) / 5**0.5, rel=1e-4)
    bound = terms.sum(0) + prior
    assert result.total == pytest.approx(bound.mean(), rel=1e-4)
    assert result.total_error == pytest.approx(bound.std(ddof=1) / 5**0.5, rel=1e-3)


def test_images_see_the_same_noise_in_every_batch_size():
    d, images = short(), random_images()
    first = bits_per_dim(some_denoiser, images, d, seed=3, batch_size=64)
    again = bits_per_dim(some_denoiser, images, d, seed=3, batch_size=2)
    np.testing.assert_allclose(first.by_timestep, again.by_timestep, rtol=1e-5)
    other = bits_per_dim(some_denoiser, images, d, seed=4, batch_size=64)
    assert abs(other.total - first.total) > 1e-3


def test_a_single_image_has_no_error():
    result = bits_per_dim(some_denoiser, random_images(1), short())
    assert np.isfinite(result.total) and math.isnan(result.total_error)
    assert np.isnan(result.by_timestep_error).all()


# ---- Gaussian data, and the denoiser that is best for them -------------------------------


def gaussian_images(n=400):
    values = np.random.default_rng(5).normal(MEAN, STD, (n, 8, 8, 1))
    return np.clip(np.rint((values + 1) * 127.5), 0, 255).astype("uint8")


DATA_VARIANCE = STD**2 + (2 / 255) ** 2 / 12  # rounding adds that of a uniform distribution


def best_denoiser(d, disturbance=0.0):
    """E[x_0 | x_t], and on request a mistake in it that does not depend on the image."""
    a = d.alphas_cumprod
    gain = ops.convert_to_tensor(best_gain(a).astype("float32"))
    root = ops.convert_to_tensor(np.sqrt(a).astype("float32"))

    def denoise(x_t, t):
        start = MEAN + column(ops.take(gain, t)) * (x_t - MEAN * column(ops.take(root, t)))
        return start + disturbance

    return denoise


def best_gain(a):
    return np.sqrt(a) * DATA_VARIANCE / (a * DATA_VARIANCE + 1 - a)


def closed_form(d, disturbance=0.0):
    """E[L_t] in bits, of `best_denoiser`.

    Its squared error is the variance v that x_0 keeps when x_t is known. Then the KL divergence
    needs nothing else, and for L_0, N(x; μ, σ²) integrated over a narrow bin of width w has the
    logarithm log w + log N + w²/24 (z² - 1)/σ², with z = (x - μ)/σ and E[z²] = v/σ².
    """
    a, before = d.alphas_cumprod, d.alphas_cumprod_prev
    v = DATA_VARIANCE * (1 - a) / (a * DATA_VARIANCE + 1 - a) + disturbance**2
    posterior = d.betas * (1 - before) / (1 - a)
    with np.errstate(divide="ignore", invalid="ignore"):  # t = 0 is overwritten
        ours = posterior if d.variance == "posterior" else d.betas
        gap = before * (d.betas / (1 - a)) ** 2 * v
        nats = (posterior / ours - 1 - np.log(posterior / ours) + gap / ours) / 2
    sigma2, width = posterior[1], 2 / 255
    z2 = v[0] / sigma2
    nats[0] = (np.log(2 * np.pi * sigma2) + z2) / 2 - np.log(width)
    nats[0] -= width**2 / 24 * (z2 - 1) / sigma2
    return nats / np.log(2)


def closed_prior(d):
    a = d.alphas_cumprod[-1]
    return (a * (DATA_VARIANCE + MEAN**2 - 1) - np.log(1 - a)) / 2 / np.log(2)


@pytest.mark.parametrize("disturbance", [0.0, 0.1])
@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_data_cost_what_the_formula_says(variance, disturbance):
    d = short(variance=variance, timesteps=20)
    result = bits_per_dim(best_denoiser(d, disturbance), gaussian_images(), d, batch_size=400)
    expected = closed_form(d, disturbance)
    assert (abs(result.by_timestep - expected) < 5 * result.by_timestep_error + 1e-6).all()
    assert (result.by_timestep_error[1:] < 0.02 * expected[1:] + 1e-5).all()  # the test has teeth
    assert abs(result.prior - closed_prior(d)) < 5 * result.prior_error + 1e-9
    total = expected.sum() + closed_prior(d)
    assert abs(result.total - total) < 5 * result.total_error
    assert result.total_error < 0.01 * total


@pytest.mark.parametrize("variance", VARIANCES)
def test_with_more_steps_the_cost_of_x_1_falls_to_what_it_tells_of_x_0(variance):
    """The formula of these tests, which the package matches above, against a known limit.

    All but L_0 codes x_1, where the first noise is always the same: no code can be shorter than
    the mutual information ½ log(1 + SNR) of x_0 and x_1.
    """
    excess = []
    for steps in (30, 300, 3000):
        signal = 1 / (1 + np.exp(np.linspace(-7, 14, steps)))  # evenly spaced log-SNR
        betas = 1 - signal / np.append(1, signal[:-1])
        d = GaussianDiffusion(betas=betas, prediction="start", variance=variance)
        information = np.log2(1 + DATA_VARIANCE * np.exp(7)) / 2
        excess.append(closed_form(d)[1:].sum() + closed_prior(d) - information)
    excess = np.array(excess)
    assert (excess > 0).all() and excess[-1] < 0.01
    np.testing.assert_allclose(excess[:-1] / excess[1:], 10, rtol=0.5)  # as 1 / T


@pytest.mark.parametrize("timesteps", [60, [0, 1, 2, 3, *range(4, 40, 4), *range(40, 200, 15)]])
def test_fewer_timesteps_estimate_the_total(timesteps):
    d = short(timesteps=200)
    result = bits_per_dim(best_denoiser(d), gaussian_images(100), d, timesteps=timesteps)
    assert len(result.timesteps) == len(result.by_timestep) < 60 and result.timesteps[0] == 0
    expected = closed_form(d)
    gap = abs(result.by_timestep - expected[result.timesteps])
    assert (gap < 5 * result.by_timestep_error + 1e-6).all()
    total = expected.sum() + closed_prior(d)
    assert abs(result.total - total) < 5 * result.total_error + 0.02 * total
    assert result.total_error < 0.02 * total


def test_interpolation_between_timesteps_by_hand():
    d = short(variance="beta")
    images = random_images()
    few = bits_per_dim(some_denoiser, images, d, timesteps=[7, 0, 2, 3])
    np.testing.assert_array_equal(few.timesteps, [0, 2, 3, 7])
    at_0, at_2, at_3, at_7 = few.by_timestep
    # 1 is like 2; 4, 5 and 6 lie on a line from 3 to 7; 8 and 9 are like 7
    between = 0.75 * at_3 + 0.25 * at_7 + 0.5 * (at_3 + at_7) + 0.25 * at_3 + 0.75 * at_7
    total = few.prior + at_0 + 2 * at_2 + at_3 + between + 3 * at_7
    assert few.total == pytest.approx(total, rel=1e-12)


# ---- special cases ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This schedule keeps")
def test_nothing_is_left_at_the_end_of_a_good_schedule():
    images = random_images(50)
    good = bits_per_dim(some_denoiser, images, short(), timesteps=2)
    assert 0 <= good.prior < 1e-5
    d = GaussianDiffusion(betas=[0.1, 0.2], prediction="start")
    x0 = images / 127.5 - 1
    expected = (0.72 * (x0**2).mean() - 0.72 - math.log(0.28)) / 2 / math.log(2)  # 0.9 · 0.8
    assert bits_per_dim(some_denoiser, images, d).prior == pytest.approx(expected, rel=1e-5)
    zero = GaussianDiffusion(8, "cosine", prediction="velocity", zero_terminal_snr=True)
    result = bits_per_dim(some_denoiser, images, zero)
    assert result.prior == 0 and np.isfinite(result.by_timestep).all()


def test_a_network_that_knows_the_image_pays_for_the_last_bin_only():
    d, image = short(), np.full((1, 4, 4, 1), 77, "uint8")
    result = bits_per_dim(lambda x_t, t: ops.full_like(x_t, 77 / 127.5 - 1), image, d)
    np.testing.assert_allclose(result.by_timestep[1:], 0, atol=1e-6)
    sigma = math.sqrt(d.posterior_variance[1])
    assert result.by_timestep[0] == pytest.approx(
        -math.log2(math.erf(1 / 255 / sigma / math.sqrt(2))), rel=1e-5
    )


def test_a_worse_denoiser_costs_more_and_twice_the_mistake_four_times():
    d, images = short(timesteps=20), gaussian_images(50)
    costs = []
    for mistake in (0.0, 0.1, 0.2, 0.4):
        generator = np.random.default_rng(1)
        pattern = generator.choice([-mistake, mistake], (8, 8, 1)).astype("float32")
        denoiser = best_denoiser(d, ops.convert_to_tensor(pattern))
        costs.append(bits_per_dim(denoiser, images, d, clip_denoised=False).by_timestep[1:].sum())
    added = np.diff(costs)
    assert (added > 0).all()
    assert (costs[3] - costs[0]) / (costs[2] - costs[0]) == pytest.approx(4, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1.5, 1.5), st.floats(-6, 1))
def test_the_256_bins_sum_to_one(mean, log_std):
    values = np.arange(256, dtype="float32") / np.float32(127.5) - 1
    log = to_numpy(discretized_log_likelihood(values, np.float32(mean), np.float32(2 * log_std)))
    assert np.isfinite(log).all() and log.max() <= 1e-6
    assert np.exp(log.astype("float64")).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("byte", [0, 1, 100, 254, 255])
def test_bins_far_from_the_mean_keep_their_digits(byte):
    """Five to six σ away, where differences of float32 CDFs near 1 would be noise."""
    x, std = byte / 127.5 - 1, 0.02
    for mean in (x - 0.11, x, x + 0.11, x + 0.9):
        found = discretized_log_likelihood(
            np.float32([x]), np.float32([mean]), np.float32([2 * math.log(std)])
        )
        expected = max(bin_mass(x, mean, std**2), bin_mass(-x, -mean, std**2), 1e-12)
        assert to_numpy(found).item() == pytest.approx(math.log(expected), rel=1e-3, abs=1e-6)


def test_divergence_of_nearly_equal_gaussians_is_not_rounded_away():
    zero, gap = ops.zeros((1,)), 2.0**-13
    found = to_numpy(gaussian_divergence(zero, zero, zero, zero + gap))
    assert found.item() == pytest.approx((gap + math.expm1(-gap)) / 2, rel=1e-2)


# ---- models ------------------------------------------------------------------------------


def test_a_model_is_measured_by_its_averaged_network():
    network = tiny_network(size=4)
    model = DiffusionModel(network, short("noise"))
    images = random_images(3)[:, :, :, :1].repeat(2, axis=1)[:, :4].repeat(2, axis=2)[:, :, :4]
    before = bits_per_dim(model, images)
    random_weights(model.network, seed=9)
    assert bits_per_dim(model, images).total == pytest.approx(before.total, rel=1e-6)
    alone = bits_per_dim(model.ema_network, images, model.diffusion)
    np.testing.assert_allclose(alone.by_timestep, before.by_timestep, rtol=1e-5)
    random_weights(model.ema_network, seed=9)
    assert abs(bits_per_dim(model, images).total - before.total) > 1e-3
    other = bits_per_dim(model, images, short("noise", "beta"))
    expected = bits_per_dim(model.ema_network, images, short("noise", "beta"))
    np.testing.assert_allclose(other.by_timestep, expected.by_timestep, rtol=1e-5)


def test_labels_reach_the_network():
    model = DiffusionModel(tiny_network(size=3, channels=2, num_classes=3), short("noise"))
    images, labels = random_images(3), np.array([0, 1, 2])
    told = bits_per_dim(model, images, labels=labels, batch_size=2)
    untold = bits_per_dim(model, images)
    assert abs(told.total - untold.total) > 1e-4

    def denoiser(x_t, t, label):
        return model.ema_network([x_t, t, label])

    for given_labels, expected in ((labels, told), (np.full(3, 3), untold)):
        found = bits_per_dim(denoiser, images, model.diffusion, labels=given_labels)
        np.testing.assert_allclose(found.by_timestep, expected.by_timestep, rtol=1e-4)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"images": random_images() / 127.5 - 1}, TypeError, "uint8.*float64"),
        ({"images": random_images().astype("int64")}, TypeError, "int64"),
        ({"images": random_images()[0]}, ValueError, r"\(3, 3, 2\)"),
        ({"images": random_images()[:0]}, ValueError, "shape"),
        ({"diffusion": None}, ValueError, "diffusion"),
        ({"labels": [0, 1]}, ValueError, "labels must be 5"),
        ({"labels": np.zeros(5)}, ValueError, "labels must be 5 ints"),
        ({"clip_denoised": 2.0}, ValueError, "clip_denoised"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"timesteps": 1}, ValueError, "timesteps"),
        ({"timesteps": 2.5}, TypeError, "timesteps"),
        ({"timesteps": []}, ValueError, "timesteps"),
        ({"timesteps": [0]}, ValueError, "one more"),
        ({"timesteps": [1, 2]}, ValueError, "from 0 to 9"),
        ({"timesteps": [0, 10]}, ValueError, "from 0 to 9"),
        ({"timesteps": [0, -1]}, ValueError, "from 0 to 9"),
        ({"timesteps": [0, 3, 3]}, ValueError, "different"),
        ({"timesteps": [0.0, 1.0]}, ValueError, "ints"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(change, error, match):
    arguments = {"denoiser": some_denoiser, "images": random_images(), "diffusion": short()}
    with pytest.raises(error, match=match):
        bits_per_dim(**{**arguments, **change})


def test_images_must_have_the_model_s_shape():
    model = DiffusionModel(tiny_network(size=4), short("noise"))
    with pytest.raises(ValueError, match=r"\(5, 3, 3, 2\).*4, 4, 1"):
        bits_per_dim(model, random_images())


@pytest.mark.filterwarnings("ignore:This schedule keeps")
def test_one_step_of_noise_has_no_divergence():
    d = GaussianDiffusion(betas=[0.3], prediction="start")
    for timesteps in (None, 2, [0]):
        result = bits_per_dim(some_denoiser, random_images(), d, timesteps=timesteps)
        assert result.total == pytest.approx(result.prior + result.by_timestep.item())


def test_progress_and_plot(tmp_path, capsys):
    result = bits_per_dim(some_denoiser, random_images(), short(), batch_size=2, progress=True)
    assert "30/30" in capsys.readouterr().out
    plot_bits_per_dim(result, tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as image:
        assert image.size == (720, 480) and len(image.getcolors(10**6)) > 10
