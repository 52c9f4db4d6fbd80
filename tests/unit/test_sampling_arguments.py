"""Labels, seeds and timesteps of `generate`, `sample` and samplers."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from tools import compiled, make_model, to_numpy

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm.samplers import SAMPLERS, SPACINGS, Sampler, choose_timesteps
from keras_ddpm.samplers.noise import initial_noise
from keras_ddpm.validation import check_labels

NAMES = ("rose", "tulip", "daisy")
THOUSAND = GaussianDiffusion(1000)
SILENT = GaussianDiffusion(1000, prediction="velocity", zero_terminal_snr=True)


@pytest.fixture(scope="module")
def class_model():
    return make_model(3, class_names=NAMES)


def test_labels_are_one_for_all_or_one_for_each_image_as_ints_or_names(class_model):
    generate = functools.partial(class_model.generate, steps=4, seed=0)
    one = generate(3, labels=1)
    for labels in ([1, 1, 1], "tulip"):
        np.testing.assert_array_equal(generate(3, labels=labels), one)
    mixed = generate(labels=np.array([1, 2, 0]))
    np.testing.assert_allclose(mixed[0], one[0], atol=1e-5)
    assert np.abs(mixed[1:] - one[1:]).max() > 0.01
    for labels in (["tulip", "daisy", "rose"], ["tulip", 2, np.int64(0)], (1, "daisy", "rose")):
        np.testing.assert_array_equal(generate(labels=labels), mixed)
    np.testing.assert_allclose(generate(labels=[1, 2, 0], batch_size=2), mixed, atol=1e-4)


@pytest.mark.once
def test_digits_are_names_as_strings_and_numbers_as_ints():
    names = ["2", "10", "30"]
    for labels in (["2", 2, "10", np.int64(0)], np.array(["2", "30", "10", "2"]), [0, 2, 1, 0]):
        found = check_labels("labels", labels, 4, 3, names)
        assert found.tolist() == [0, 2, 1, 0] and found.dtype == np.int32
    with pytest.raises(ValueError, match="labels: '1' is not one of the 3 class names"):
        check_labels("labels", ["2", "1"], 2, 3, names)


def test_without_a_seed_sampling_follows_set_random_seed():
    def draw(seed):
        keras.utils.set_random_seed(seed)
        noise = np.zeros((2, 3))
        return to_numpy(sample(lambda x_t, t: x_t, THOUSAND, noise, "ddpm", steps=2, seed=None))

    np.testing.assert_array_equal(draw(3), draw(3))
    assert np.abs(draw(3) - draw(4)).max() > 0.01


def test_without_labels_the_network_gets_its_no_label(class_model):
    x_t, t = initial_noise(0, (3, 8, 8, 1)), np.full(3, 20, "int32")
    output = compiled(class_model.ema_network)([x_t, t, np.full(3, 3, "int32")])
    expected = to_numpy(class_model.diffusion.predict_start(x_t, t, output))
    found = class_model.generate(3, timesteps=[20], seed=0, clip_denoised=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.once
def test_names_and_guidance_need_a_model_that_was_made_for_them():
    with pytest.raises(ValueError, match="guidance_scale=2.0 .*label_dropout=0.* Train with"):
        make_model(3, label_dropout=0.0).generate(1, labels=0, guidance_scale=2.0)
    with pytest.raises(ValueError, match="class_names: 'rose' is there 2 times"):
        make_model(3, class_names=["rose", "rose", "tulip"])
    with pytest.raises(ValueError, match="class_names has 1 .* no classes"):
        make_model(class_names=["rose"])


@pytest.mark.once
@pytest.mark.parametrize("spacing", SPACINGS)
def test_each_spacing_gives_as_many_descending_timesteps_as_asked_for(spacing):
    one_beta_does_all = GaussianDiffusion(betas=[0.01] * 10 + [0.999] + [0.01] * 10)
    diffusions = [GaussianDiffusion(total, "cosine") for total in (1, 2, 3, 10, 47, 300)]
    for diffusion in [*diffusions, one_beta_does_all]:
        for steps in range(1, diffusion.timesteps + 1):
            found = choose_timesteps(diffusion, steps, spacing)
            assert found.shape == (steps,) and found.dtype == np.int32
            assert (np.diff(found) < 0).all() and found[-1] >= 0
            assert found[0] == diffusion.timesteps - 1 or spacing == "leading"


@pytest.mark.once
def test_timesteps_by_hand():
    """Halves are rounded to even numbers, as NumPy and diffusers do: 62.5 to 62."""
    sixteen = [999, 937, 874, 811, 749, 687, 624, 561, 499, 437, 374, 311, 249, 187, 124, 61]
    for spacing, total, expected in (
        ("linspace", 1000, [999, 666, 333, 0]),
        ("leading", 1000, [750, 500, 250, 0]),
        ("leading", 10, [6, 4, 2, 0]),
        ("linspace", 10, [9, 4, 0]),
        ("trailing", 1000, [999, 749, 499, 249]),
        ("trailing", 1000, sixteen),
        ("quadratic", 1000, [999, 444, 111, 0]),
    ):
        found = choose_timesteps(GaussianDiffusion(total, "cosine"), len(expected), spacing)
        assert found.tolist() == expected, spacing


@pytest.mark.once
@pytest.mark.parametrize("diffusion, silent", [(THOUSAND, 0), (SILENT, 1)])
def test_logsnr_steps_are_even_in_log_snr_where_there_is_a_signal(diffusion, silent):
    signal = diffusion.alphas_cumprod[: 1000 - silent]
    log_snr = np.log(signal / (1 - signal))
    timesteps = choose_timesteps(diffusion, 8 + silent, "logsnr")
    assert timesteps[0] == 999 and timesteps[silent] == 999 - silent and timesteps[-1] == 0
    wanted = np.linspace(log_snr[-1], log_snr[0], 8)
    for t, value in zip(timesteps[silent + 1 : -1], wanted[1:-1]):
        assert abs(log_snr[t] - value) <= log_snr[t - 1] - log_snr[t + 1]


@pytest.mark.once
def test_without_terminal_signal_every_spacing_starts_at_the_last_timestep():
    for spacing in SPACINGS:
        for steps in (1, 2, 999, 1000) if spacing != "leading" else (1000,):
            timesteps = choose_timesteps(SILENT, steps, spacing)
            assert timesteps[0] == 999 and len(set(timesteps)) == steps
    with pytest.raises(ValueError, match="spacing='leading' never visits .*spacing='trailing'"):
        choose_timesteps(SILENT, 50, "leading")


@pytest.mark.once
def test_every_sampler_takes_at_most_fifty_trailing_steps_or_explicit_ones():
    short = GaussianDiffusion(20, "cosine")
    for sampler in SAMPLERS.values():
        np.testing.assert_array_equal(sampler().plan(THOUSAND), range(999, 0, -20))
        np.testing.assert_array_equal(sampler().plan(short), range(19, -1, -1))
        explicit = sampler(steps=7, spacing="leading", timesteps=(900, 30, 2)).plan(THOUSAND)
        assert explicit.tolist() == [900, 30, 2] and explicit.dtype == np.int32


def test_a_sampler_of_ones_own_gets_the_start_of_the_step_before_and_at_first_the_noise():
    """Also where the process runs in pieces, between which it keeps a trajectory."""

    class Own(Sampler):
        def coefficients(self, diffusion, timesteps):
            return {"factor": 0.5 + np.arange(len(timesteps))}

        def step(self, denoise, x_t, c, inputs):
            assert inputs.noise is None and inputs.given == ()
            t_next = ops.cast(inputs.t_next, "float32")
            return c["factor"] * inputs.previous_start + t_next, denoise(x_t, inputs.t)[0]

    diffusion, noise = GaussianDiffusion(20, "cosine", prediction="start"), initial_noise(0, (3, 2))
    run = functools.partial(
        sample, lambda x_t, t: x_t + 2, diffusion, noise, Own(timesteps=(9, 4, 1))
    )
    expected = [noise, 0.5 * noise + 4, 1.5 * (noise + 2) + 1, 2.5 * (0.5 * noise + 6) - 1]
    found, trajectory = run(return_trajectory=True)
    np.testing.assert_allclose(trajectory.x_t, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(found), expected[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(run()), expected[-1], rtol=1e-5, atol=1e-6)
