"""Edits and interpolation of images: what they keep, and what all of them have in common."""

import functools

import numpy as np
import pytest
from tools import BACKEND, FLOATS, IMAGES, assert_refused, compiled, make_model, shared_model

from keras_ddpm import DDPM, GaussianDiffusion
from keras_ddpm.editing import add_noise, image_to_image, interpolate, invert, lerp, slerp
from keras_ddpm.restoration import inpaint
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.repaint import RePaint

THREE, THREE_FLOATS = IMAGES[:3], FLOATS[:3]
SHORT = GaussianDiffusion(20, "cosine")
HALF = np.ones((8, 8), bool)
HALF[:, 4:] = False
# The options of RePaint that are compiled; three images in batches of two.
ONCE = {"steps": 6, "resample_steps": 1, "jump_length": 1, "batch_size": 2}
AGAIN = {"steps": 5, "resample_steps": 2, "jump_length": 3, "batch_size": 2}


def test_known_pixels_stay_as_they_are_and_what_the_others_held_has_no_influence():
    def paint(images):
        return inpaint(shared_model(), images, masks, seed=0, **AGAIN)

    masks = np.random.default_rng(1).integers(0, 2, (3, 8, 8, 1))
    painted, known = paint(THREE), masks == 1
    np.testing.assert_array_equal(painted[known], THREE_FLOATS[known])
    assert np.abs(painted - THREE_FLOATS)[~known].mean() > 0.1
    assert painted.dtype == np.float32 and np.abs(painted).max() <= 1
    np.testing.assert_array_equal(paint(np.where(known, THREE, 0).astype("uint8")), painted)
    others = paint(np.where(known, 0, THREE).astype("uint8"))
    assert np.abs(others - painted)[~known].max() > 0.01


def test_with_nothing_known_and_no_resampling_it_is_ancestral_sampling():
    painted = inpaint(shared_model(), THREE, np.zeros((8, 8)), seed=4, **ONCE)
    sampled = shared_model().generate(3, sampler="ddpm", steps=6, seed=4, batch_size=2)
    np.testing.assert_allclose(painted, sampled, atol=1e-5)


def test_a_mask_may_have_any_of_these_shapes_and_dtypes():
    expected = inpaint(shared_model(), THREE, HALF, seed=0, **ONCE)
    each = np.broadcast_to(HALF[..., None], (3, 8, 8, 1))
    for mask in (HALF[..., None], each, HALF.astype("uint8"), HALF.astype("float64")):
        painted = inpaint(shared_model(), THREE, mask, seed=0, **ONCE)
        np.testing.assert_array_equal(painted, expected)


@pytest.mark.parametrize("strength, kept", [(1, 5), (0.6, 3), (0.05, 0)])
def test_strength_is_the_share_of_the_steps(strength, kept):
    model, plan = shared_model(), [49, 35, 25, 12, 0]
    found = image_to_image(model, THREE, strength, timesteps=plan, seed=3)
    assert found.dtype == np.float32
    if not kept:
        np.testing.assert_array_equal(found, THREE_FLOATS)
        return
    plan = plan[5 - kept :]
    signal = model.diffusion.alphas_cumprod[plan[0]]
    noise = np.random.default_rng(3).standard_normal(THREE.shape, dtype="float32")
    x_t = np.sqrt(signal) * THREE_FLOATS + np.sqrt(1 - signal) * noise
    expected = model.generate(noise=x_t, timesteps=plan)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.once
def test_any_percentage_of_100_steps_is_as_many_steps():
    """Also 29 %, although 0.29 * 100 is a little less than 29 in floating-point numbers."""
    model = make_model(diffusion=GaussianDiffusion(100, "cosine"))
    for percent in range(1, 101):
        _, options = add_noise(model, [THREE_FLOATS], percent / 100, "ddim", 0, {"steps": 100})
        assert len(options["sampler"].timesteps) == percent


def test_one_evaluation_with_predicted_noise_is_the_usual_ddim_inversion():
    model, plan = shared_model(), [37, 20, 8]
    network = compiled(model.ema_network)
    noise = invert(model, THREE, timesteps=plan, evaluations=1)
    x, a = THREE_FLOATS, 1.0
    for t in plan[::-1]:
        b = model.diffusion.alphas_cumprod[t]
        predicted = network([x, np.full(3, t, "int32")])
        x = np.sqrt(b / a) * x + (np.sqrt(1 - b) - np.sqrt(b * (1 - a) / a)) * predicted
        x, a = x.astype("float32"), b
    np.testing.assert_allclose(noise, x, atol=1e-4)
    np.testing.assert_array_equal(
        DDIMInversion(steps=4).plan(GaussianDiffusion(20, "cosine")), [4, 9, 14, 19]
    )


def test_inversion_and_sampling_visit_the_same_timesteps_with_the_same_labels():
    model, plan = shared_model(3), [12, 6, 2]
    options = {"timesteps": plan, "clip_denoised": False}
    noise = invert(model, THREE, labels=[0, 2, 1], timesteps=plan, evaluations=8)
    again = model.generate(noise=noise, labels=[0, 2, 1], **options)
    np.testing.assert_allclose(again, THREE_FLOATS, atol=1e-3)
    other = model.generate(noise=noise, labels=1, **options)
    assert np.abs(other - again).max() > 0.01


@pytest.mark.once
def test_repaint_repeats_blocks_of_the_plan():
    for resample_steps, jump_length, visits in (
        (1, 2, [8, 6, 4, 2, 0]),
        (2, 2, [8, 6, 8, 6, 4, 2, 4, 2, 0, 0]),
        (3, 9, [8, 6, 4, 2, 0] * 3),
    ):
        sampler = RePaint(None, "trailing", (8, 6, 4, 2, 0), resample_steps, jump_length)
        assert sampler.plan(SHORT).tolist() == visits


@pytest.mark.once
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_a_step_of_repaint_is_one_of_ddpm_and_then_goes_up_again(variance):
    d, visits = GaussianDiffusion(20, "cosine", variance=variance), [15, 9, 15, 9, 4, 4, 4]
    c, a = RePaint().coefficients(d, np.array(visits)), d.alphas_cumprod
    names = "start", "x_t", "noise"
    for i, (below, up) in enumerate([([9], 9), ([4], 15), ([9], 9), ([4], 4), ([], 4)]):
        down = DDPM().coefficients(d, np.array([visits[i], *below]))
        start, x_t, noise = (down[name][0] for name in names)
        kept = a[up] / (a[below[0]] if below else 1)
        noise = np.sqrt(kept * noise**2 + 1 - kept)
        expected = [np.sqrt(kept) * start, np.sqrt(kept) * x_t, noise]
        np.testing.assert_allclose([c[name][i] for name in names], expected, atol=1e-12)
    np.testing.assert_allclose(c["known"] ** 2, [*a[visits[1:]], 1])
    np.testing.assert_allclose(c["known"] ** 2 + c["known_noise"] ** 2, 1)
    assert c["noise"][-1] == c["known_noise"][-1] == c["x_t"][-1] == 0


@pytest.mark.once
def test_a_spherical_mix_keeps_the_length_and_divides_the_angle():
    first, second = np.random.default_rng(0).standard_normal((2, 5, 4, 3))
    first, second = (x / np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (first, second))

    def angle(a, b):
        return np.arccos((a * b).sum((1, 2)))

    for share in (0.1, 0.8):
        mixed = slerp(first, second, share)
        np.testing.assert_allclose(np.linalg.norm(mixed, axis=(1, 2)), 1, atol=1e-6)
        np.testing.assert_allclose(angle(first, mixed), share * angle(first, second), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("mix", [lerp, slerp])
def test_mixes_return_the_ends_exactly_and_are_always_finite(mix):
    a = np.random.default_rng(0).standard_normal((4, 8, 8, 1), dtype="float32")
    for b in (a[::-1], a, -a, 3 * a, 0 * a, a * np.float32(1 + 1e-6)):
        np.testing.assert_array_equal(mix(a, b, 0), a)
        np.testing.assert_array_equal(mix(a, b, 1), b)
        middle = mix(a, b, 0.5)
        assert np.isfinite(middle).all() and middle.dtype == np.float32
    np.testing.assert_allclose(mix(a, 3 * a, 0.25), 1.5 * a, atol=1e-5)


@pytest.mark.parametrize(
    "mix, num_classes, options", [("slerp", None, {}), ("lerp", 3, {"labels": [0, 1, 2]})]
)
def test_the_ends_are_what_becomes_of_the_images_alone(mix, num_classes, options):
    model, first, second = shared_model(num_classes), FLOATS[:3], FLOATS[3:6]
    options = {"strength": 0.6, "steps": 5, "seed": 2, "eta": 0.5, **options}
    found = interpolate(model, first, second, (0, 0.3, 1), mix=mix, **options)
    assert found.shape == (3, 3, 8, 8, 1) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0], image_to_image(model, first, **options))
    np.testing.assert_array_equal(found[2], image_to_image(model, second, **options))


@pytest.mark.once
@pytest.mark.parametrize("name, mix", [("lerp", lerp), ("slerp", slerp)])
def test_states_or_without_strength_images_are_mixed_as_asked_for(name, mix):
    first, second, options = FLOATS[:3], FLOATS[3:6], {"steps": 5, "seed": 2}
    blend = functools.partial(interpolate, shared_model(), first, second, 0.3, mix=name, **options)
    np.testing.assert_allclose(blend(strength=0)[0], mix(first, second, 0.3), atol=1e-6)
    if mix is lerp:  # the mix of the states is the state of the mixed images
        expected = image_to_image(shared_model(), 0.7 * first + 0.3 * second, **options)
        np.testing.assert_allclose(blend()[0], expected, atol=1e-4)


EDITS = {
    "image_to_image": lambda m, x, **o: image_to_image(m, x, steps=4, eta=0.5, **o),
    "interpolate": lambda m, x, **o: interpolate(m, x, x[::-1], 0.5, steps=4, eta=0.5, **o)[0],
    "inpaint": lambda m, x, **o: inpaint(m, x, HALF, **{**AGAIN, "batch_size": 64, **o}),
    "invert": lambda m, x, seed=None, **o: invert(m, x, steps=4, evaluations=2, **o),
}
all_edits = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


@all_edits
def test_bytes_and_floats_seeds_and_batches(edit):
    model = shared_model()
    first = edit(model, THREE, seed=1)
    assert isinstance(first, np.ndarray)
    assert first.shape == THREE.shape and first.dtype == np.float32
    compilations = model.sampling_loop.num_compilations
    for images in (THREE_FLOATS, THREE_FLOATS.astype("float64")):
        np.testing.assert_array_equal(edit(model, images, seed=1), first)
    assert np.abs(edit(model, IMAGES[3:6], seed=1) - first).max() > 0.01
    if edit is not EDITS["invert"]:
        assert np.abs(edit(model, THREE, seed=2) - first).max() > 0.01
        assert np.abs(edit(model, THREE) - edit(model, THREE)).max() > 0.01
    if BACKEND != "torch":  # which runs the loop eagerly
        assert model.sampling_loop.num_compilations == compilations
    limited = edit(model, THREE, seed=1, batch_size=2)
    np.testing.assert_allclose(limited, first, atol=1e-4)


@all_edits
def test_labels_and_guidance_reach_the_network_and_wrong_ones_are_named(edit):
    model = shared_model(3)
    labelled = edit(model, THREE, labels=[1, 0, 2], seed=0)
    assert np.abs(edit(model, THREE, seed=0) - labelled).max() > 1e-3
    guided = edit(model, THREE, labels=[1, 0, 2], guidance_scale=3.0, seed=0)
    assert np.abs(guided - labelled).max() > 1e-3
    assert_refused(functools.partial(edit, model, THREE), ValueError, labels=(3,))
    argument = "first" if edit is EDITS["interpolate"] else "images"
    with pytest.raises(ValueError, match=f"^{argument} has shape"):
        edit(model, THREE[:, 1:])


@pytest.mark.once
def test_what_is_given_to_repaint_is_checked():
    model, images = shared_model(), np.zeros((2, 8, 8, 1), "float32")
    run = functools.partial(model.generate, 2, sampler=RePaint(2))
    for given, message in (
        ((), "given has 0 arrays"),
        ((images,), "given has 1 arrays"),
        ((images[:, :4], images > 0), r"given\[0\] has shape"),
        ((images, images), r"given\[1\] must be bools \(2, 8, 8, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run(given=given)
    with pytest.raises(ValueError, match="given has 0 arrays"):
        model.watch(2, sampler=RePaint(2))


@pytest.mark.once
def test_options_are_checked_also_where_nothing_is_drawn():
    model, images = shared_model(3), np.zeros((2, 8, 8, 1), "float32")
    for options in ({"labels": 9}, {"labels": 0, "guidance_scale": -1.0}):
        with pytest.raises(ValueError, match="labels|guidance_scale"):
            image_to_image(model, images, strength=0, **options)
