"""`generate`, `sample` and `watch`: what the result depends on, its states, and compilation."""

import functools
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from tools import (
    BACKEND,
    compiled,
    make_model,
    random_weights,
    resetting,
    shared_model,
    tiny_network,
    to_numpy,
)

from keras_ddpm import DDIM, DDPM, MLP, DPMSolverPlusPlus, GaussianDiffusion, Heun, sample
from keras_ddpm.samplers import SAMPLERS, Trajectory, choose_timesteps, get_sampler, loop
from keras_ddpm.samplers.loop import SamplingLoop
from keras_ddpm.samplers.noise import SEED_DTYPE, initial_noise, step_noise, step_seeds
from keras_ddpm.samplers.repaint import RePaint

every_sampler = pytest.mark.parametrize(
    "sampler",
    [
        DDIM(steps=4),
        DDIM(steps=4, eta=0.5),
        DDPM(steps=4),
        DPMSolverPlusPlus(steps=4),
        DPMSolverPlusPlus(steps=4, eta=1.0),
        Heun(steps=4),
    ],
    ids=lambda sampler: f"{type(sampler).__name__}_{getattr(sampler, 'eta', 0)}",
)
PLAN = [40, 30, 22, 12, 4]
compiles = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs the loop eagerly")


@pytest.fixture
def model():
    return shared_model()


@every_sampler
def test_images_depend_on_their_seed_alone_and_not_on_the_batch(model, sampler):
    def generate(count, seed, **options):
        return model.generate(count, sampler=sampler, seed=seed, **options)

    images = generate(3, 7)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.float32
    assert np.abs(images).max() <= 1
    np.testing.assert_array_equal(generate(3, 7), images)
    np.testing.assert_allclose(generate(2, 7), images[:2], atol=1e-4)
    np.testing.assert_allclose(generate(3, 7, batch_size=2), images, atol=1e-4)
    assert np.abs(generate(3, 8) - images).max() > 0.1
    assert np.abs(images[1] - images[0]).max() > 0.1


def test_the_initial_noise_is_that_of_numpy_from_the_seed_given_or_that_of_keras(model):
    noise = np.random.default_rng(3).standard_normal((3, 8, 8, 1), dtype="float32")
    by_seed, by_noise = model.generate(3, steps=4, seed=3), model.generate(noise=noise, steps=4)
    np.testing.assert_array_equal(by_seed, by_noise)
    keras.utils.set_random_seed(5)
    first, second = (model.generate(3, steps=4) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(model.generate(3, steps=4), first)


def test_step_noise_is_standard_normal_and_new_for_each_image_and_step():
    used = step_seeds(4, 50, 20).astype("int64")[:, None] + np.arange(20)
    assert len(set(used.ravel().tolist())) == 1000
    seeds = ops.convert_to_tensor(step_seeds(0, 6, 5).view(SEED_DTYPE))
    noise = np.stack([to_numpy(step_noise(seeds, step, (1000,))) for step in range(5)])
    flat = noise.reshape(30, 1000)
    correlation = np.corrcoef(flat) - np.eye(30)
    assert np.abs(correlation).max() < 5 / np.sqrt(1000)
    assert abs(flat.mean()) < 5 / np.sqrt(flat.size)
    assert flat.var() == pytest.approx(1, abs=5 * np.sqrt(2 / flat.size))
    assert np.percentile(flat, 97.725) == pytest.approx(2, abs=0.08)


def test_generate_follows_the_averaged_weights(model):
    before, reset = model.generate(3, steps=4, seed=0), resetting(model)
    try:
        random_weights(model.network, seed=1)
        np.testing.assert_array_equal(model.generate(3, steps=4, seed=0), before)
        random_weights(model.ema_network, seed=1)
        assert np.abs(model.generate(3, steps=4, seed=0) - before).max() > 0.01
    finally:
        reset()


def test_a_name_with_options_gives_the_images_of_the_sampler(model):
    by_name = model.generate(3, sampler="ddim", steps=4, eta=0.5, seed=0)
    by_object = model.generate(3, sampler=DDIM(steps=4, eta=0.5), seed=0)
    np.testing.assert_array_equal(by_name, by_object)
    for name, options in (
        ("ddpm", {"steps": 4, "spacing": "leading"}),
        ("dpm_solver++", {"timesteps": [40, 20, 3], "eta": 1.0}),
        ("heun", {"steps": 4, "max_growth": 2.0}),
    ):
        sampler = SAMPLERS[name](**options)
        assert get_sampler(name, **options) == sampler and get_sampler(sampler) is sampler
        # None is the default of any option, and an eta of 0 is for every sampler.
        assert get_sampler(name, steps=None, timesteps=None, eta=0) == SAMPLERS[name]()


@compiles
@every_sampler
def test_a_second_generate_compiles_nothing(model, sampler):
    def run(function=model.generate, count=3, timesteps=(30, 20, 9, 1), **options):
        return function(count, sampler=replace(sampler, timesteps=timesteps), **options)

    run()
    before = model.sampling_loop.num_compilations
    run(seed=1)
    run(count=7, batch_size=3)
    run(timesteps=None)
    run(timesteps=(7,), return_trajectory=True)
    assert len(list(run(model.watch, frames=2))) == 3
    assert model.sampling_loop.num_compilations == before


@compiles
def test_other_labels_and_scales_compile_nothing():
    model = shared_model(3)
    model.generate(labels=[0, 1, 2], guidance_scale=2.0, steps=4)
    before = model.sampling_loop.num_compilations
    model.generate(labels=[2, 1, 0], guidance_scale=[1.5, 0.5, 1.0], steps=4)
    assert model.sampling_loop.num_compilations == before


@compiles
def test_only_the_latest_programs_are_kept(monkeypatch):
    monkeypatch.setattr(loop, "MAX_PROGRAMS", 2)
    sampling_loop, found = SamplingLoop(lambda x_t, t: 0.5 * x_t, GaussianDiffusion()), []
    for clip in (0.1, 0.2, 0.2, 0.1, 0.3, 0.2, 0.1):
        before = sampling_loop.num_compilations
        noise = initial_noise(0, (3, 2))
        sampling_loop.sample(noise, DDIM(steps=2), seed=0, clip_denoised=clip)
        found.append(sampling_loop.num_compilations > before)
    assert found == [True, True, False, False, True, False, True]


@pytest.mark.once
def test_one_trace_of_tensorflow_serves_36_sizes_of_batches():
    """TensorFlow never frees a trace."""
    sampling_loop = make_model(3).sampling_loop
    for count in range(1, 37):
        labels = np.zeros(count, "int32")
        noise = initial_noise(0, (count, 8, 8, 1))
        sampling_loop.sample(noise, DDPM(steps=2), seed=0, conditions=(labels,))
    assert sampling_loop.num_compilations == 1


@compiles
@pytest.mark.parametrize(
    "one, other",
    [
        (DDIM(eta=0.2), DDIM(eta=0.7)),
        (DPMSolverPlusPlus(eta=0.2), DPMSolverPlusPlus(eta=1.0)),
        (Heun(max_growth=2.0), Heun(max_growth=9.0)),
        (RePaint(resample_steps=2), RePaint(resample_steps=3, jump_length=2)),
    ],
)
def test_samplers_that_differ_in_their_coefficients_share_a_program(one, other):
    sampling_loop = SamplingLoop(lambda x_t, t: 0.5 * x_t, GaussianDiffusion())
    noise = initial_noise(0, (2, 2))
    given = (noise, noise > 0) if isinstance(one, RePaint) else ()
    sampling_loop.sample(noise, replace(one, steps=4), seed=0, given=given)
    before = sampling_loop.num_compilations
    found = sampling_loop.sample(noise, replace(other, steps=4), seed=0, given=given)
    assert sampling_loop.num_compilations == before
    fresh = SamplingLoop(lambda x_t, t: 0.5 * x_t, GaussianDiffusion())
    expected = fresh.sample(noise, replace(other, steps=4), seed=0, given=given)
    np.testing.assert_array_equal(found, expected)


def test_sample_follows_the_weights_of_a_network():
    network, noise = tiny_network(), initial_noise(0, (3, 8, 8, 1))
    run = functools.partial(sample, network, GaussianDiffusion(50, "cosine"), noise, steps=4)
    first = to_numpy(run())
    random_weights(network, seed=1)
    assert np.abs(to_numpy(run()) - first).max() > 0.01


def test_sample_takes_any_function_clips_only_if_asked_and_repeats_with_the_same_seed():
    diffusion = GaussianDiffusion(20, "cosine", prediction="start")
    noise, traced = initial_noise(0, (4, 3)), []

    def denoiser(x_t, t):
        traced.append(x_t)
        return 0.1 * x_t + 5

    def run(**options):
        return to_numpy(sample(denoiser, diffusion, noise, "ddpm", steps=4, **options))

    first = run(seed=0)
    assert first.min() > 3
    before = len(traced)
    np.testing.assert_array_equal(run(seed=0), first)
    assert np.abs(run(seed=1) - first).max() > 0.01
    assert BACKEND == "torch" or len(traced) == before
    np.testing.assert_allclose(run(seed=0, clip_denoised=True), 1, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trajectory_holds_the_inputs_and_predictions_of_the_network(model, sampler):
    options = {"sampler": sampler, "timesteps": PLAN, "seed": 0, "batch_size": 2}
    images, found = model.generate(3, return_trajectory=True, **options)
    np.testing.assert_allclose(images, model.generate(3, **options), atol=1e-5)
    assert found.timesteps.tolist() == [*PLAN, -1]
    assert found.x_t.shape == found.x_start.shape == (6, 3, 8, 8, 1)
    np.testing.assert_array_equal(found.x_t[0], initial_noise(0, (3, 8, 8, 1)))
    np.testing.assert_array_equal(found.x_t[-1], images)
    np.testing.assert_array_equal(found.x_start[-1], images)
    predict = compiled(model.ema_network)
    for x_t, x_start, step in zip(found.x_t, found.x_start, PLAN):
        t = np.full(3, step, "int32")
        expected = model.diffusion.predict_start(x_t, t, predict([x_t, t]), clip_denoised=True)
        np.testing.assert_allclose(x_start, to_numpy(expected), atol=1e-4)
    np.testing.assert_allclose(found.x_start[-2], images, atol=1e-5)  # the last step adds nothing


@pytest.mark.parametrize(
    "frames, chosen", [(3, [0, 2, 4]), ([4, 0, 1], [0, 1, 4]), (99, range(5)), (1, [0])]
)
def test_frames_are_counted_or_listed_and_watched(model, frames, chosen):
    chosen, noise = [*chosen, 5], initial_noise(0, (3, 8, 8, 1))
    run = functools.partial(model.generate, noise=noise, timesteps=PLAN)
    images, all_frames = run(return_trajectory=True)
    options = {"timesteps": PLAN, "return_trajectory": frames, "clip_denoised": True}
    x_0, by_sample = sample(model.ema_network, model.diffusion, noise, **options)
    np.testing.assert_allclose(to_numpy(x_0), images, atol=1e-4)
    watched = model.watch(noise=noise, frames=frames, timesteps=PLAN)
    watched = Trajectory(*map(np.array, zip(*watched)))
    for found in (run(return_trajectory=frames)[1], by_sample, watched):
        assert found.timesteps.tolist() == all_frames.timesteps[chosen].tolist()
        np.testing.assert_allclose(found.x_t, all_frames.x_t[chosen], atol=1e-4)
        np.testing.assert_allclose(found.x_start, all_frames.x_start[chosen], atol=1e-4)


def test_watch_runs_no_step_before_its_frame_is_asked_for(model, monkeypatch):
    ran = []

    def program(batch, first, last, *_):
        ran.append((int(first), int(last)))
        return batch[:2]

    monkeypatch.setattr(model.sampling_loop, "_program", lambda *_: program)
    watched = model.watch(2, frames=[0, 2], steps=5, seed=0)
    assert ran == []
    next(watched)
    assert ran == [(0, 1)]
    next(watched)
    assert ran == [(0, 1), (1, 2), (2, 3)]


def test_guided_images_can_be_watched():
    model, options = shared_model(3), {"labels": [2, 0, 1], "guidance_scale": 3.0, "steps": 4}
    *_, (t, images, _) = model.watch(seed=0, **options)
    assert t == -1
    np.testing.assert_allclose(images, model.generate(seed=0, **options), atol=1e-5)


def test_progress_shows_a_bar_and_changes_no_image(model, capsys):
    options = {"steps": 4, "seed": 0, "batch_size": 2}
    images = model.generate(3, **options)
    assert capsys.readouterr().out == ""
    shown = model.generate(3, progress=True, **options)
    assert "8/8" in capsys.readouterr().out  # two batches of four steps
    np.testing.assert_allclose(shown, images, atol=1e-5)


@pytest.mark.once
def test_second_order_samplers_take_even_steps_of_log_snr_for_points():
    """Their last trailing step, of first order, makes a narrow Gaussian 45 % narrower."""
    diffusion, deviation = GaussianDiffusion(1000), 0.08
    for name, sampler in SAMPLERS.items():
        for shape, spacing in (((2,), "logsnr"), ((8, 8, 3), "trailing")):
            is_even = spacing == "logsnr" and name in ("dpm_solver++", "heun")
            expected = choose_timesteps(diffusion, 30, spacing if is_even else "trailing")
            found = sampler(steps=30).suited_to(shape).plan(diffusion)
            np.testing.assert_array_equal(found, expected)
            given = sampler(steps=30, spacing="linspace").suited_to(shape)
            assert given.spacing == "linspace"

    def exact_noise(x_t, t):
        signal = ops.take(ops.convert_to_tensor(diffusion.alphas_cumprod.astype("float32")), t[0])
        share = ops.sqrt(signal) * deviation**2 / (signal * deviation**2 + 1 - signal)
        return diffusion.predict_noise_from_start(x_t, t, share * x_t)

    noise = initial_noise(0, (2000, 2))

    def error(spacing):
        options = {"sampler": "dpm_solver++", "steps": 30, "spacing": spacing}
        samples = to_numpy(sample(exact_noise, diffusion, noise, **options))
        return samples.std() / (deviation * noise.std()) - 1

    assert abs(error(None)) < 0.01 and -0.5 < error("trailing") < -0.4
    points = make_model(network=MLP(2, 8, 1))
    _, path = points.generate(2, sampler="heun", steps=4, return_trajectory=True)
    expected = choose_timesteps(points.diffusion, 4, "logsnr")
    np.testing.assert_array_equal(path.timesteps[:-1], expected)
