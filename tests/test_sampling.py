"""`generate` and `sample`: reproducible, compiled once, and what they refuse."""

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import random_weights, tiny_network, to_numpy
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion, sample
from keras_ddpm.samplers import SAMPLERS, loop
from keras_ddpm.samplers.seeds import initial_noise, step_noise, step_seeds

COMPILES = keras.backend.backend() != "torch"


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))


@pytest.fixture(scope="module")
def class_model():
    keras.utils.set_random_seed(0)
    return DiffusionModel(tiny_network(num_classes=3), GaussianDiffusion(20, "cosine"))


# ---- seeds ------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "ddpm"},
        {"eta": 0.5},
        {"sampler": "dpm_solver++"},
        {"sampler": "heun"},
        {"sampler": "dpm_solver++", "eta": 1.0},
    ],
)
def test_the_same_seed_gives_the_same_images_and_another_seed_others(model, options):
    first, again, other = (model.generate(2, steps=3, seed=s, **options) for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert first.shape == (2, 8, 8, 1) and first.dtype == np.float32
    assert np.abs(first).max() <= 1


def test_without_a_seed_images_differ(model):
    first, second = (model.generate(1, steps=3) for _ in range(2))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("options", [{"sampler": sampler} for sampler in SAMPLERS])
def test_the_batch_limit_changes_no_image(model, options):
    images = model.generate(5, steps=4, seed=0, **options)
    for batch_size in (1, 2, 3):
        limited = model.generate(5, steps=4, seed=0, batch_size=batch_size, **options)
        np.testing.assert_allclose(limited, images, atol=1e-4)


def test_fewer_images_with_one_seed_are_the_first_of_more(model):
    five, two = (model.generate(n, sampler="ddpm", steps=4, seed=0) for n in (5, 2))
    np.testing.assert_allclose(five[:2], two, atol=1e-5)


def test_the_initial_noise_is_numpys_whatever_the_backend(model):
    noise = initial_noise(3, (2, 8, 8, 1))
    np.testing.assert_array_equal(
        noise, np.random.default_rng(3).standard_normal((2, 8, 8, 1), dtype="float32")
    )
    by_seed, by_noise = model.generate(2, steps=3, seed=3), model.generate(noise=noise, steps=3)
    np.testing.assert_array_equal(by_seed, by_noise)


def test_step_noise_is_standard_normal_and_new_for_each_image_and_step():
    seeds = ops.convert_to_tensor(step_seeds(0, 6, 5).view("int32"))
    if COMPILES:
        seeds = ops.convert_to_tensor(step_seeds(0, 6, 5))
    noise = np.stack([to_numpy(step_noise(seeds, step, (1000,))) for step in range(5)])
    flat = noise.reshape(30, 1000)
    correlation = np.corrcoef(flat) - np.eye(30)
    assert np.abs(correlation).max() < 5 / np.sqrt(1000)
    assert abs(flat.mean()) < 5 / np.sqrt(flat.size)
    assert flat.var() == pytest.approx(1, abs=5 * np.sqrt(2 / flat.size))
    assert np.percentile(flat, 97.725) == pytest.approx(2, abs=0.08)


def test_step_seeds_never_meet():
    seeds = step_seeds(4, 50, 20).astype("int64")
    used = (seeds[:, None] + np.arange(20)).ravel()
    assert len(set(used.tolist())) == 1000


# ---- compilation ------------------------------------------------------------


@pytest.mark.skipif(not COMPILES, reason="torch runs the loop eagerly")
def test_a_second_generate_compiles_nothing():
    model = DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))
    model.generate(3, steps=4, seed=0)
    first = model.sampling_loop.num_compilations
    assert first >= 1
    model.generate(3, steps=4, seed=1)
    model.generate(3, timesteps=[15, 9, 2, 1], seed=2)
    model.generate(7, steps=4, seed=3, batch_size=3)
    model.generate(3, steps=20, seed=0)
    model.generate(3, steps=1, seed=0, return_trajectory=True)
    random_weights(model.ema_network, seed=1)
    model.generate(3, steps=4, seed=0)
    assert model.sampling_loop.num_compilations == first


@pytest.mark.skipif(not COMPILES, reason="torch runs the loop eagerly")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_second_guided_generate_compiles_nothing(sampler):
    model = DiffusionModel(tiny_network(num_classes=3), GaussianDiffusion(20, "cosine"))
    options = {"sampler": sampler, "steps": 4}
    model.generate(labels=[0, 1], guidance_scale=2.0, seed=0, **options)
    first = model.sampling_loop.num_compilations
    model.generate(labels=[2, 1], guidance_scale=3.5, seed=1, **options)
    model.generate(labels=[2, 1], guidance_scale=[1.5, 0.5], seed=1, **options)
    assert model.sampling_loop.num_compilations == first


@pytest.mark.skipif(not COMPILES, reason="torch runs the loop eagerly")
def test_only_the_latest_programs_are_kept(monkeypatch):
    monkeypatch.setattr(loop, "MOST_PROGRAMS", 2)
    model = DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))
    compiled = []
    for num_images in (1, 2, 2, 1, 3, 2, 1):
        before = model.sampling_loop.num_compilations
        model.generate(num_images, steps=2, seed=0)
        compiled.append(model.sampling_loop.num_compilations > before)
    assert compiled == [True, True, False, False, True, False, True]


def test_generate_follows_the_averaged_weights():
    model = DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))
    first = model.generate(2, steps=3, seed=0)
    random_weights(model.network, seed=1)
    np.testing.assert_array_equal(model.generate(2, steps=3, seed=0), first)
    random_weights(model.ema_network, seed=1)
    assert np.abs(model.generate(2, steps=3, seed=0) - first).max() > 0.01


def test_sample_takes_a_network_and_follows_its_weights():
    network, d = tiny_network(), GaussianDiffusion(20, "cosine")
    noise = initial_noise(0, (2, 8, 8, 1))
    kwargs = {"steps": 3, "clip_denoised": True}

    def expected():
        fresh = DiffusionModel(network, d)
        return fresh.generate(noise=noise, steps=3)

    first = to_numpy(sample(network, d, noise, **kwargs))
    np.testing.assert_allclose(first, expected(), atol=1e-5)
    random_weights(network, seed=1)
    second = to_numpy(sample(network, d, noise, **kwargs))
    np.testing.assert_allclose(second, expected(), atol=1e-5)
    assert np.abs(second - first).max() > 0.01


def test_sample_takes_any_function_and_clips_only_when_told():
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = initial_noise(0, (4, 3))
    free = sample(lambda x_t, t: ops.ones_like(x_t) * 5, d, noise, steps=4)
    np.testing.assert_allclose(to_numpy(free), 5, atol=1e-4)
    clipped = sample(lambda x_t, t: ops.ones_like(x_t) * 5, d, noise, steps=4, clip_denoised=True)
    np.testing.assert_allclose(to_numpy(clipped), 1, atol=1e-4)


def test_sample_with_the_same_seed_repeats_and_with_another_does_not():
    d = GaussianDiffusion(20, "cosine", prediction="start")
    noise = initial_noise(0, (4, 3))

    def denoiser(x_t, t):
        return 0.5 * x_t

    first, again, other = (
        to_numpy(sample(denoiser, d, noise, sampler="ddpm", steps=4, seed=s)) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.once
def test_the_sampler_of_the_readme_works(model, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    section = readme.split("### A sampler of your own")[1]
    code = section.split("```python")[1].split("```")[0]
    monkeypatch.setitem(SAMPLERS, "calm", None)  # taken out again after the test
    exec(code, {})
    images = model.generate(2, sampler="calm", steps=4, seed=0)
    assert images.shape == (2, 8, 8, 1)
    assert np.abs(images - model.generate(2, steps=4, seed=0)).max() > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trailing_is_every_samplers_own_choice(model, sampler):
    """What `benchmarks/sampler_quality.py` found to be best where steps are few."""
    images = model.generate(2, sampler=sampler, steps=4, seed=0)
    chosen = model.generate(2, sampler=sampler, steps=4, seed=0, spacing="trailing")
    np.testing.assert_array_equal(images, chosen)
    assert not np.array_equal(
        images, model.generate(2, sampler=sampler, steps=4, seed=0, spacing="linspace")
    )


# ---- trajectories and progress ------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trajectory_shows_what_the_network_saw_and_said(model, sampler):
    timesteps = [19, 11, 6, 2]
    options = {"sampler": sampler, "timesteps": timesteps, "seed": 0, "batch_size": 2}
    images, found = model.generate(3, return_trajectory=True, **options)
    np.testing.assert_allclose(images, model.generate(3, **options), atol=1e-5)
    assert found.timesteps.tolist() == [*timesteps, -1]
    assert found.x_t.shape == found.x_start.shape == (5, 3, 8, 8, 1)
    np.testing.assert_array_equal(found.x_t[0], initial_noise(0, (3, 8, 8, 1)))
    np.testing.assert_array_equal(found.x_t[-1], images)
    np.testing.assert_array_equal(found.x_start[-1], images)
    for i, step in enumerate(timesteps):
        t = np.full(3, step, "int32")
        output = model.ema_network([found.x_t[i], t])
        x_start = model.diffusion.predict_start(found.x_t[i], t, output, clip_denoised=True)
        np.testing.assert_allclose(found.x_start[i], to_numpy(x_start), atol=1e-4)
    np.testing.assert_allclose(found.x_start[-2], images, atol=1e-5)  # the last step adds nothing


def test_sample_returns_a_trajectory_too(model):
    noise = initial_noise(0, (3, 8, 8, 1))
    options = {"timesteps": [19, 11, 6, 2], "clip_denoised": True}
    expected, known = model.generate(noise=noise, return_trajectory=3, **options | {"seed": 0})
    x, found = sample(model.ema_network, model.diffusion, noise, return_trajectory=3, **options)
    np.testing.assert_allclose(to_numpy(x), expected, atol=1e-4)
    assert found.timesteps.tolist() == known.timesteps.tolist() == [19, 6, 2, -1]
    np.testing.assert_allclose(found.x_t, known.x_t, atol=1e-4)
    np.testing.assert_allclose(found.x_start, known.x_start, atol=1e-4)


def test_frames_can_be_counted_or_listed(model):
    options = {"timesteps": [19, 15, 11, 6, 2], "seed": 0}
    _, everything = model.generate(2, return_trajectory=True, **options)
    _, counted = model.generate(2, return_trajectory=3, **options)
    _, listed = model.generate(2, return_trajectory=[4, 0, 1], **options)
    assert counted.timesteps.tolist() == [19, 11, 2, -1]
    assert listed.timesteps.tolist() == [19, 15, 2, -1]
    np.testing.assert_allclose(counted.x_t, everything.x_t[[0, 2, 4, 5]], atol=1e-5)
    np.testing.assert_allclose(listed.x_start, everything.x_start[[0, 1, 4, 5]], atol=1e-5)


def test_progress_shows_a_bar_and_changes_no_image(model, capsys):
    images = model.generate(3, steps=4, seed=0, batch_size=2)
    assert capsys.readouterr().out == ""
    shown = model.generate(3, steps=4, seed=0, batch_size=2, progress=True)
    assert "8/8" in capsys.readouterr().out  # two batches of four steps
    np.testing.assert_allclose(shown, images, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_who_watches_sees_the_trajectory(model, sampler):
    options = {"sampler": sampler, "timesteps": [19, 15, 11, 6, 2], "seed": 0}
    for frames in (True, 3, [4, 0, 1]):
        images, expected = model.generate(3, return_trajectory=frames, **options)
        timesteps, x_t, x_start = zip(*model.watch(3, frames=frames, **options))
        assert list(timesteps) == expected.timesteps.tolist()
        np.testing.assert_array_equal(np.stack(x_t), expected.x_t)
        np.testing.assert_array_equal(np.stack(x_start), expected.x_start)
        np.testing.assert_array_equal(x_t[-1], images)


def test_one_who_watches_waits_for_no_later_step(model, monkeypatch):
    """The program has run as far as the frame, and no further; and one may go away."""
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
    watched.close()
    assert ran[-1] == (2, 3)


def test_guided_images_can_be_watched(class_model):
    options = {"labels": [2, 0], "guidance_scale": 3.0, "steps": 4, "seed": 0}
    *_, (t, images, _) = class_model.watch(**options)
    assert t == -1
    np.testing.assert_allclose(images, class_model.generate(**options), atol=1e-5)


@pytest.mark.skipif(not COMPILES, reason="torch runs the loop eagerly")
def test_watching_compiles_nothing_that_generate_did_not():
    model = DiffusionModel(tiny_network(), GaussianDiffusion(20, "cosine"))
    model.generate(3, steps=4, seed=0)
    first = model.sampling_loop.num_compilations
    assert len(list(model.watch(3, steps=4, seed=1))) == 5
    assert len(list(model.watch(3, frames=2, steps=4, seed=1))) == 3
    assert model.sampling_loop.num_compilations == first


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"num_images": 1, "steps": 21}, "steps=21 is more than the 20 timesteps"),
        ({"num_images": 1, "steps": 3, "frames": [3]}, "list step numbers from 0 to 2"),
        ({"num_images": 1, "guidance_scale": 2.0}, "guidance_scale=2.0 needs labels"),
    ],
)
def test_watching_refuses_wrong_arguments_before_the_first_step(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model.watch(**kwargs)


# ---- labels ------------------------------------------------------------


def test_labels_are_an_int_or_one_an_image(class_model):
    options = {"steps": 3, "seed": 0}
    one = class_model.generate(3, labels=1, **options)
    np.testing.assert_array_equal(one, class_model.generate(labels=[1, 1, 1], **options))
    mixed = class_model.generate(labels=np.array([1, 2, 0]), **options)
    np.testing.assert_allclose(mixed[0], one[0], atol=1e-5)
    assert np.abs(mixed[1:] - one[1:]).max() > 0.01
    by_one = class_model.generate(labels=[1, 2, 0], batch_size=1, **options)
    np.testing.assert_allclose(by_one, mixed, atol=1e-4)


def test_no_labels_mean_the_networks_no_label(class_model):
    images = class_model.generate(2, steps=1, seed=0)
    x_t, t = initial_noise(0, (2, 8, 8, 1)), np.full(2, 19, "int32")
    output = class_model.ema_network([x_t, t, np.full(2, 3, "int32")])
    expected = class_model.diffusion.predict_start(x_t, t, output, clip_denoised=True)
    np.testing.assert_allclose(images, to_numpy(expected), atol=1e-4)


# ---- wrong input ------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"num_images": 1, "labels": 0}, ValueError, "labels=0 .*the network has no classes"),
        ({}, TypeError, "num_images must be an int, got None"),
        ({"num_images": 0}, ValueError, "num_images must be at least 1, got 0"),
        ({"num_images": 1, "steps": 21}, ValueError, "steps=21 is more than the 20 timesteps"),
        ({"num_images": 1, "sampler": "dimm"}, ValueError, "sampler='dimm'.*did you mean 'ddim'"),
        ({"num_images": 1, "batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"num_images": 1, "eta": -1}, ValueError, "eta must be at least 0"),
        ({"num_images": 1, "steps": -3}, ValueError, "steps must be at least 1, got -3"),
        ({"num_images": 1, "clip_denoised": 1.5}, ValueError, "clip_denoised=1.5 must be True"),
        ({"num_images": 1, "return_trajectory": 0}, ValueError, "return_trajectory=0"),
        (
            {"num_images": 1, "steps": 3, "return_trajectory": [3]},
            ValueError,
            r"return_trajectory=\[3\] must list step numbers from 0 to 2",
        ),
        ({"noise": np.zeros((2, 8, 8, 3))}, ValueError, r"noise has shape \(2, 8, 8, 3\)"),
        ({"noise": np.zeros((2, 8, 8, 1)), "num_images": 3}, ValueError, "num_images=3"),
    ],
)
def test_wrong_arguments_of_generate(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        model.generate(**kwargs)


@pytest.mark.parametrize(
    "labels, message",
    [
        (3, r"labels=3 must lie in \[0, 2\]"),
        ([0, -1], r"labels=\[0, -1\] must lie in \[0, 2\]"),
        ([0, 1, 2], "must be one class, or 2 of them"),
        (0.5, "labels=0.5 must be one class"),
    ],
)
def test_wrong_labels_of_generate(class_model, labels, message):
    with pytest.raises(ValueError, match=message):
        class_model.generate(2, labels=labels)
