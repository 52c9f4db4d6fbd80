"""Editing images: exact where the data are Gaussian, whose best denoiser is a formula."""

import keras
import numpy as np
import pytest
from conftest import random_weights, tiny_network, to_numpy
from keras import layers, ops

from keras_ddpm import (
    DiffusionModel,
    GaussianDiffusion,
    image_to_image,
    inpaint,
    interpolate,
    invert,
    mix_linear,
    mix_spherical,
)
from keras_ddpm.samplers import DDIM
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.repaint import RePaint, repaint_visits

COMPILES = keras.backend.backend() != "torch"
STD, CORRELATION = 0.4, 0.9
COVARIANCE = STD**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
PAIRS = 4000  # pairs of neighbours in one picture: noise is drawn picture by picture


def gaussian_model(diffusion, height=PAIRS):
    """The exact E[x0 | x_t] for pictures whose rows are pairs of pixels from N(0, COVARIANCE)."""
    a = diffusion.alphas_cumprod[:, None, None]
    gain = np.sqrt(a) * COVARIANCE @ np.linalg.inv(a * COVARIANCE + (1 - a) * np.eye(2))
    x_t, t = keras.Input((height, 2, 1)), keras.Input((), dtype="int32")
    table = layers.Embedding(diffusion.timesteps, 4)
    matrix = layers.Reshape((2, 2))(table(t))
    start = ops.matmul(layers.Reshape((height, 2))(x_t), matrix)  # symmetric
    network = keras.Model([x_t, t], layers.Reshape((height, 2, 1))(start))
    table.set_weights([gain.reshape(-1, 4).astype("float32")])
    return DiffusionModel(network, diffusion)


def gaussian_pictures(seed=0, batch=1, height=PAIRS):
    rng = np.random.default_rng(seed)
    pairs = rng.multivariate_normal([0, 0], COVARIANCE, (batch, height))
    return np.clip(pairs, -1, 1)[..., None].astype("float32")


@pytest.fixture(scope="module")
def gaussian():
    return gaussian_model(GaussianDiffusion(1000, "cosine", prediction="start"))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))


@pytest.fixture(scope="module")
def class_model():
    keras.utils.set_random_seed(0)
    network = tiny_network(num_classes=3)
    return DiffusionModel(network, GaussianDiffusion(20, "cosine"), label_names="abc")


def pictures(batch=3, seed=0, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (batch, 8, 8, channels), "uint8")


def as_float(images):
    return images.astype("float32") / 127.5 - 1


HALF = np.ones((8, 8), bool)
HALF[:, 4:] = False


# ---- inversion ------------------------------------------------------------


def reconstruction_error(model, images, evaluations, steps):
    noise = invert(model, images, steps=steps, evaluations=evaluations)
    again = model.generate(noise=noise, steps=steps, clip_denoised=False)
    return np.abs(again - images).max()


def test_sampling_from_the_inverse_returns_the_images(gaussian):
    images = gaussian_pictures()
    by_evaluations = [reconstruction_error(gaussian, images, n, 20) for n in (1, 2, 3, 5, 10)]
    assert (np.diff(by_evaluations) < 0).all(), by_evaluations
    assert by_evaluations[-1] < 1e-3 and by_evaluations[0] > 20 * by_evaluations[-1]
    assert reconstruction_error(gaussian, images, 40, 20) < 2e-5
    by_steps = [reconstruction_error(gaussian, images, 1, n) for n in (10, 40, 160)]
    assert by_steps[0] > 2 * by_steps[1] > 4 * by_steps[2], by_steps


def test_the_inverse_of_data_is_standard_normal_noise(gaussian):
    noise = invert(gaussian, gaussian_pictures(), steps=200, evaluations=10)
    covariance = np.cov(noise[0, ..., 0].T)
    np.testing.assert_allclose(covariance, np.eye(2), atol=0.12)
    np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=5 / np.sqrt(PAIRS))


def test_noise_without_any_signal_can_be_inverted_too():
    d = GaussianDiffusion(1000, "cosine", prediction="start", zero_terminal_snr=True)
    images = gaussian_pictures(height=50)
    assert reconstruction_error(gaussian_model(d, height=50), images, 30, 20) < 1e-4


def test_each_step_up_undoes_a_step_down():
    d = GaussianDiffusion(20, "cosine")
    timesteps = np.array([3, 8, 15])
    c = DDIMInversion(1).coefficients(d, timesteps)
    down = DDIM().coefficients(d, timesteps[::-1])
    np.testing.assert_array_equal(c["start"], down["start"][::-1])
    np.testing.assert_array_equal(c["direction"], down["direction"][::-1])


def test_one_evaluation_with_predicted_noise_is_the_usual_ddim_inversion(model):
    plan = [15, 8, 3]
    noise = invert(model, pictures(), timesteps=plan, evaluations=1)
    x, a = as_float(pictures()), 1.0
    for t in plan[::-1]:
        b = model.diffusion.alphas_cumprod[t]
        predicted = to_numpy(model.ema_network([x, np.full(3, t, "int32")]))
        x = np.sqrt(b / a) * x + (np.sqrt(1 - b) - np.sqrt(b * (1 - a) / a)) * predicted
        x, a = x.astype("float32"), b
    np.testing.assert_allclose(noise, x, atol=1e-4)


def test_inversion_and_sampling_visit_the_same_timesteps_and_labels():
    network = random_weights(tiny_network(num_classes=3), scale=0.6)
    model = DiffusionModel(network, GaussianDiffusion(20, "cosine"))
    options = {"timesteps": [12, 6, 2], "labels": [0, 2]}
    noise = invert(model, pictures(2), evaluations=30, **options)
    again = model.generate(noise=noise, clip_denoised=False, **options)
    np.testing.assert_allclose(again, as_float(pictures(2)), atol=1e-3)
    other = model.generate(noise=noise, clip_denoised=False, timesteps=[12, 6, 2], labels=1)
    assert np.abs(other - again).max() > 0.01


def test_sampling_refuses_to_run_along_an_inversion(model):
    with pytest.raises(ValueError, match="must ascend.*Use `keras_ddpm.invert`"):
        model.generate(1, sampler=DDIMInversion())


# ---- inpainting ------------------------------------------------------------


@pytest.mark.parametrize("resampling, jump", [(1, 1), (3, 1), (2, 3)])
def test_known_pixels_stay_as_they_are(model, resampling, jump):
    images = pictures()
    masks = np.random.default_rng(1).integers(0, 2, (3, 8, 8, 1))
    painted = inpaint(
        model, images, masks, steps=5, resampling=resampling, jump=jump, seed=0, batch_size=2
    )
    known = np.broadcast_to(masks == 1, images.shape)
    np.testing.assert_array_equal(painted[known], as_float(images)[known])
    assert np.abs(painted - as_float(images))[~known].mean() > 0.1
    assert painted.dtype == np.float32 and np.abs(painted).max() <= 1


def test_what_the_unknown_pixels_held_has_no_influence(model):
    images, others = pictures(), pictures()
    others[:, :, 4:] = 0
    first, second = (inpaint(model, x, HALF, steps=5, seed=0) for x in (images, others))
    np.testing.assert_array_equal(first, second)


def test_with_nothing_known_and_no_resampling_it_is_ancestral_sampling(model):
    nothing = np.zeros((8, 8))
    painted = inpaint(model, pictures(), nothing, steps=6, resampling=1, seed=4)
    sampled = model.generate(3, sampler="ddpm", steps=6, seed=4)
    np.testing.assert_allclose(painted, sampled, atol=1e-5)


def test_resampling_brings_the_unknown_pixels_to_their_conditional_distribution(gaussian):
    images = gaussian_pictures()
    mask = np.zeros((PAIRS, 2))
    mask[:, 0] = 1
    known = images[0, :, 0, 0]

    def fit(steps, resampling, jump):
        options = {"steps": steps, "clip_denoised": False, "seed": 0}
        painted = inpaint(gaussian, images, mask, resampling=resampling, jump=jump, **options)
        unknown = painted[0, :, 1, 0]
        slope = (known @ unknown) / (known @ known)
        return slope, np.std(unknown - slope * known)

    # x_2 given x_1 is N(CORRELATION x_1, STD² (1 − CORRELATION²)).
    slopes = [fit(100, resampling, 1)[0] for resampling in (1, 4, 16)]
    off = np.abs(np.array(slopes) - CORRELATION)
    assert off[0] > 3 * off[1] > 6 * off[2] and off[2] < 0.03, slopes
    spread, exact = fit(50, 5, 5)[1], STD * np.sqrt(1 - CORRELATION**2)
    assert spread == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_a_step_down_and_up_is_one_gaussian(variance):
    d = GaussianDiffusion(20, "cosine", variance=variance)
    visits = np.array([15, 9, 15, 9, 4, 4, 4])
    c = RePaint().coefficients(d, visits)
    a = d.alphas_cumprod
    for i, (t, s, up) in enumerate([(15, 9, 9), (9, 4, 15), (15, 9, 9), (9, 4, 4), (4, None, 4)]):
        alpha, below = a[t], 1.0 if s is None else a[s]
        # q(x_s | x_t, x0) from the precisions of its two parts, then x_s goes up.
        step = alpha / below
        if s is None:
            from_start, from_x, added = 1.0, 0.0, 0.0
        else:
            precision = step / (1 - step) + 1 / (1 - below)
            from_start = np.sqrt(below) / (1 - below) / precision
            from_x = np.sqrt(step) / (1 - step) / precision
            added = 1 / precision if variance == "posterior" else 1 - step
        kept = a[up] / below
        found = [c[name][i] for name in ("start", "x_t", "noise")]
        noise = np.sqrt(kept * added + 1 - kept)
        np.testing.assert_allclose(
            found, [np.sqrt(kept) * from_start, np.sqrt(kept) * from_x, noise], atol=1e-12
        )
    np.testing.assert_allclose(c["known"] ** 2, [*a[visits[1:]], 1])
    np.testing.assert_allclose(c["known"] ** 2 + c["known_noise"] ** 2, 1)
    assert c["noise"][-1] == c["known_noise"][-1] == c["x_t"][-1] == 0


def test_visits_repeat_blocks_of_the_plan():
    plan = np.array([8, 6, 4, 2, 0])
    assert repaint_visits(plan, 1, 2).tolist() == plan.tolist()
    assert repaint_visits(plan, 2, 1).tolist() == [8, 8, 6, 6, 4, 4, 2, 2, 0, 0]
    assert repaint_visits(plan, 2, 2).tolist() == [8, 6, 8, 6, 4, 2, 4, 2, 0, 0]
    assert repaint_visits(plan, 2, 9).tolist() == [*plan, *plan]
    with pytest.raises(ValueError, match="must not leave out"):
        RePaint().coefficients(GaussianDiffusion(20, "cosine"), np.array([9, 3, 5, 3]))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (3, 8, 8, 1)])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float64"])
def test_a_mask_may_have_any_of_these_shapes_and_dtypes(model, shape, dtype):
    mask = np.broadcast_to(HALF[..., None], (3, 8, 8, 1))
    expected = inpaint(model, pictures(), HALF, steps=2, seed=0)
    mask = (mask if len(shape) == 4 else mask[0].reshape(shape)).astype(dtype)
    painted = inpaint(model, pictures(), mask, steps=2, seed=0)
    np.testing.assert_array_equal(painted, expected)


# ---- image to image ------------------------------------------------------------


def test_strength_nothing_returns_the_images(model):
    found = image_to_image(model, pictures(), strength=0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, as_float(pictures()))


@pytest.mark.parametrize("strength, kept", [(1, 5), (0.6, 3), (0.2, 1), (0.05, 0)])
def test_strength_is_the_share_of_the_steps(model, strength, kept):
    images, plan = as_float(pictures()), [19, 14, 10, 5, 0]
    found = image_to_image(model, images, strength, timesteps=plan, seed=3)
    if not kept:
        np.testing.assert_array_equal(found, images)
        return
    plan = plan[5 - kept :]
    signal = model.diffusion.alphas_cumprod[plan[0]]
    noise = np.random.default_rng(3).standard_normal(images.shape, dtype="float32")
    x_t = np.sqrt(signal) * images + np.sqrt(1 - signal) * noise
    expected = model.generate(noise=x_t, timesteps=plan)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_full_strength_begins_at_noise_with_hardly_any_signal(model):
    found = image_to_image(model, pictures(), 1, steps=5, seed=3)
    sampled = model.generate(3, steps=5, seed=3)
    assert model.diffusion.alphas_cumprod[-1] < 1e-4
    np.testing.assert_allclose(found, sampled, atol=0.1)
    assert np.abs(found - sampled).max() > 0


def test_less_strength_stays_closer_to_the_image(gaussian):
    images = gaussian_pictures()
    options = {"steps": 20, "clip_denoised": False, "seed": 0}
    gaps = [
        np.abs(image_to_image(gaussian, images, s, **options) - images).mean()
        for s in (0, 0.2, 0.5, 0.8)
    ]
    assert (np.diff(gaps) > 0).all()


# ---- interpolation ------------------------------------------------------------


@pytest.mark.parametrize("mix", ["linear", "spherical"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ends_are_what_becomes_of_the_images_alone(class_model, mix, eta):
    first, second = pictures(), pictures(seed=1)
    options = {"strength": 0.6, "steps": 5, "labels": ["a", "b", "c"], "seed": 2, "eta": eta}
    found = interpolate(class_model, first, second, (0, 0.3, 1), mix=mix, **options)
    assert found.shape == (3, 3, 8, 8, 1) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0], image_to_image(class_model, first, **options))
    np.testing.assert_array_equal(found[2], image_to_image(class_model, second, **options))
    assert min(np.abs(found[1] - found[i]).max() for i in (0, 2)) > 0.01


def test_the_linear_mix_of_states_is_the_state_of_the_mixed_images(model):
    first, second = pictures(), pictures(seed=1)
    options = {"steps": 5, "seed": 2}
    found = interpolate(model, first, second, 0.3, mix="linear", **options)
    mixed = mix_linear(as_float(first), as_float(second), 0.3)
    np.testing.assert_allclose(found[0], image_to_image(model, mixed, **options), atol=1e-4)


def test_the_mix_that_was_asked_for_is_the_one_that_is_made(model):
    first, second = pictures(), pictures(seed=1)
    found = {
        mix: interpolate(model, first, second, 0.5, strength=0, mix=mix)[0]
        for mix in ("linear", "spherical")
    }
    both = as_float(first), as_float(second)
    np.testing.assert_allclose(found["spherical"], mix_spherical(*both, 0.5), atol=1e-6)
    assert np.abs(found["spherical"] - found["linear"]).max() > 0.01


def test_without_strength_the_images_are_mixed(model):
    first, second = pictures(), pictures(seed=1)
    found = interpolate(model, first, second, 0.5, strength=0, mix="linear")
    np.testing.assert_allclose(found[0], (as_float(first) + as_float(second)) / 2, atol=1e-6)


def test_a_spherical_mix_keeps_the_length_and_divides_the_angle():
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((5, 4, 3)) for _ in range(2))
    first, second = (x / np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (first, second))

    def angle(a, b):
        return np.arccos((a * b).sum((1, 2)))

    for share in (0.1, 0.5, 0.8):
        mixed = mix_spherical(first, second, share)
        np.testing.assert_allclose(np.linalg.norm(mixed, axis=(1, 2)), 1, atol=1e-6)
        np.testing.assert_allclose(angle(first, mixed), share * angle(first, second), atol=1e-5)


@pytest.mark.parametrize("mix", [mix_linear, mix_spherical])
def test_mixes_return_the_ends_exactly_and_are_always_finite(mix):
    a = np.random.default_rng(0).standard_normal((4, 8, 8, 1), dtype="float32")
    for b in (a[::-1], a, -a, 3 * a, 0 * a, a * np.float32(1 + 1e-6)):
        np.testing.assert_array_equal(mix(a, b, 0), a)
        np.testing.assert_array_equal(mix(a, b, 1), b)
        middle = mix(a, b, 0.5)
        assert np.isfinite(middle).all() and middle.dtype == np.float32
    np.testing.assert_allclose(mix(a, a, 0.3), a, atol=1e-6)
    np.testing.assert_allclose(mix(a, 3 * a, 0.5), 2 * a, atol=1e-5)


def test_a_spherical_mix_of_noise_is_noise_and_a_linear_one_is_not():
    a, b = np.random.default_rng(0).standard_normal((2, 2, 100, 100))
    assert mix_spherical(a, b, 0.5).std() == pytest.approx(1, abs=0.02)
    assert mix_linear(a, b, 0.5).std() == pytest.approx(np.sqrt(0.5), abs=0.02)


# ---- what all have in common ------------------------------------------------------------

EDITS = {
    "image_to_image": lambda m, x, **o: image_to_image(m, x, steps=4, eta=0.5, **o),
    "interpolate": lambda m, x, **o: interpolate(m, x, x[::-1], 0.5, steps=4, eta=0.5, **o)[0],
    "inpaint": lambda m, x, **o: inpaint(m, x, HALF, steps=3, resampling=2, jump=2, **o),
    "invert": lambda m, x, seed=None, **o: invert(m, x, steps=4, evaluations=2, **o),
}
all_edits = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


@all_edits
def test_bytes_and_floats_seeds_and_batches(model, edit):
    images = pictures(5)
    first = edit(model, images, seed=1)
    assert isinstance(first, np.ndarray)
    assert first.shape == images.shape and first.dtype == np.float32
    np.testing.assert_array_equal(edit(model, as_float(images), seed=1), first)
    np.testing.assert_array_equal(edit(model, as_float(images).astype("float64"), seed=1), first)
    for batch_size in (1, 2):
        limited = edit(model, images, seed=1, batch_size=batch_size)
        np.testing.assert_allclose(limited, first, atol=1e-4)
    if edit is not EDITS["invert"]:
        assert np.abs(edit(model, images, seed=2) - first).max() > 0.01
        assert np.abs(edit(model, images) - edit(model, images)).max() > 0.01


@all_edits
def test_labels_and_guidance_reach_the_network(class_model, edit):
    images = pictures()
    by_name = edit(class_model, images, labels=["b", "a", "c"], seed=0)
    np.testing.assert_array_equal(edit(class_model, images, labels=[1, 0, 2], seed=0), by_name)
    assert np.abs(edit(class_model, images, seed=0) - by_name).max() > 1e-3
    guided = edit(class_model, images, labels=[1, 0, 2], guidance_scale=3.0, seed=0)
    assert np.abs(guided - by_name).max() > 1e-3
    with pytest.raises(ValueError, match="labels: 'd' is not among"):
        edit(class_model, images, labels="d")
    with pytest.raises(ValueError, match="guidance_scale=-1"):
        edit(class_model, images, labels=0, guidance_scale=-1)


@pytest.mark.skipif(not COMPILES, reason="torch runs the loop eagerly")
@all_edits
def test_a_second_call_compiles_nothing(edit):
    model = DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))
    edit(model, pictures(), seed=0)
    first = model.sampling_loop.num_compilations
    edit(model, pictures(seed=1), seed=1)
    assert model.sampling_loop.num_compilations == first


# ---- wrong input ------------------------------------------------------------


@pytest.mark.parametrize(
    "images, error, message",
    [
        (np.zeros((2, 8, 8, 3)), ValueError, r"\(2, 8, 8, 3\), but must be \(batch, 8, 8, 1\)"),
        (np.zeros((8, 8, 1)), ValueError, r"A single image is `image\[None\]`"),
        (np.zeros((0, 8, 8, 1)), ValueError, "batch at least 1"),
        (np.zeros((2, 8, 8, 1), "int64"), TypeError, "dtype int64; give uint8, or float"),
        (np.full((2, 8, 8, 1), 255.0), ValueError, "values from 255 to 255.*`x.astype"),
        (np.full((2, 8, 8, 1), np.nan), ValueError, "or NaN, but must be"),
    ],
)
@all_edits
def test_images_that_are_none(model, edit, images, error, message):
    with pytest.raises(error, match=message):
        edit(model, images)


X = np.zeros((2, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: image_to_image(m, X, 1.1), r"strength must be a number in \[0, 1\], got 1.1"),
        (lambda m: image_to_image(m, X, -0.1), r"strength must be .* got -0.1"),
        (lambda m: image_to_image(m, X, np.nan), r"strength must be .* got nan"),
        (lambda m: interpolate(m, X, X[:1]), r"first has shape \(2, 8, 8, 1\) and second \(1, 8"),
        (lambda m: interpolate(m, X, X[:, 1:]), r"second has shape \(2, 7, 8, 1\), but must be"),
        (lambda m: interpolate(m, X, X, (0, 2.0)), r"shares must be .* got 2.0"),
        (lambda m: interpolate(m, X, X, np.nan), r"shares must be .* got nan"),
        (lambda m: interpolate(m, X, X, ()), r"shares=\(\) asks for no image"),
        (lambda m: m.generate(1, sampler=RePaint()), "RePaint needs an image and a mask"),
        (lambda m: interpolate(m, X, X, mix="linaer"), "mix='linaer'.*did you mean 'linear'"),
        (lambda m: mix_linear(X, X[:1], 0.5), r"first has shape"),
        (lambda m: mix_spherical(X, X, 1.5), r"share must be a number in \[0, 1\], got 1.5"),
        (lambda m: invert(m, X, evaluations=0), "evaluations must be at least 1, got 0"),
        (lambda m: invert(m, X, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda m: inpaint(m, X, HALF[1:]), r"mask has shape \(7, 8\), but must be \(8, 8\), "),
        (lambda m: inpaint(m, X, X[:1]), r"mask has shape \(1, 8, 8, 1\), .* \(2, 8, 8, 1\) for"),
        (lambda m: inpaint(m, X, HALF * 255), r"mask holds \[  0 255\].*use `mask > 127`"),
        (lambda m: inpaint(m, X, HALF * np.nan), r"mask holds \[nan\]"),
        (lambda m: inpaint(m, X, HALF, resampling=0), "resampling must be at least 1, got 0"),
        (lambda m: inpaint(m, X, HALF, jump=0), "jump must be at least 1, got 0"),
        (lambda m: inpaint(m, X, HALF, clip_denoised=2), "clip_denoised=2 must be"),
    ],
)
def test_wrong_arguments(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)
