"""Labels, timesteps, and wrong arguments of `generate`, `watch`, `sample` and samplers."""

import functools

import numpy as np
import pytest
from tools import assert_refused, compiled, make_model, shared_model, to_numpy

from keras_ddpm import DDIM, GaussianDiffusion, sample
from keras_ddpm.samplers import SAMPLERS, SPACINGS, choose_timesteps, get_sampler
from keras_ddpm.samplers.noise import initial_noise

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
    np.testing.assert_array_equal(generate(labels=["tulip", "daisy", "rose"]), mixed)
    np.testing.assert_allclose(generate(labels=[1, 2, 0], batch_size=2), mixed, atol=1e-4)


def test_without_labels_the_network_gets_its_no_label(class_model):
    x_t, t = initial_noise(0, (3, 8, 8, 1)), np.full(3, 20, "int32")
    output = compiled(class_model.ema_network)([x_t, t, np.full(3, 3, "int32")])
    expected = to_numpy(class_model.diffusion.predict_start(x_t, t, output))
    found = class_model.generate(3, timesteps=[20], seed=0, clip_denoised=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_wrong_labels_and_scales_are_named(class_model):
    generate = functools.partial(class_model.generate, 2)
    labels = 3, [0, -1], [0, 1, 2], "dasy", ["rose", "oak"]
    assert_refused(generate, ValueError, labels=labels, guidance_scale=(2.0,))
    assert_refused(generate, TypeError, labels=(0.5,))
    generate = functools.partial(generate, labels=0)
    assert_refused(generate, ValueError, guidance_scale=(-1.0, np.nan, "2", [1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="'dasy' is not .*, did you mean 'daisy'"):
        class_model.generate(2, labels="dasy")


@pytest.mark.once
def test_labels_names_and_guidance_need_a_model_that_was_made_for_them():
    with pytest.raises(ValueError, match="labels=0 were given, but the network has no classes"):
        shared_model().generate(1, labels=0)
    with pytest.raises(TypeError, match="labels has dtype <U4.*the classes have no names"):
        shared_model(3).generate(1, labels="rose")
    with pytest.raises(ValueError, match="guidance_scale=2.0 .*label_dropout=0.* Train with"):
        make_model(3, label_dropout=0.0).generate(1, labels=0, guidance_scale=2.0)
    with pytest.raises(ValueError, match="class_names has 2 .* 3 classes"):
        make_model(3, class_names=["rose", "rose", "tulip"])
    with pytest.raises(ValueError, match="class_names has 1 .* no classes"):
        make_model(class_names=["rose"])


def test_wrong_arguments_of_generate_and_watch_are_named_before_the_first_step():
    model, noise = shared_model(), np.zeros((2, 8, 8, 1))
    generate = functools.partial(model.generate, 1)
    assert_refused(generate, TypeError, seed=("a",), stps=(5,), eta=("1",))
    assert_refused(generate, ValueError, batch_size=(0,), seed=(-1,), clip_denoised=(1.5,))
    assert_refused(generate, ValueError, noise=(noise, noise[:1] + np.nan, "abc"))
    assert_refused(generate, ValueError, sampler=("dimm",), return_trajectory=(0, [50]))
    assert_refused(model.generate, TypeError, num_images=(None, 1.5))
    assert_refused(model.generate, ValueError, num_images=(0,), noise=(noise.repeat(3, -1),))
    assert_refused(model.watch, ValueError, num_images=(0,))
    assert_refused(functools.partial(model.watch, 1), ValueError, frames=([50],))


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
def test_four_timesteps():
    for spacing, total, expected in (
        ("linspace", 1000, [999, 666, 333, 0]),
        ("leading", 1000, [750, 500, 250, 0]),
        ("leading", 10, [6, 4, 2, 0]),
        ("trailing", 1000, [999, 749, 499, 249]),
        ("quadratic", 1000, [999, 444, 111, 0]),
    ):
        found = choose_timesteps(GaussianDiffusion(total, "cosine"), 4, spacing)
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


@pytest.mark.once
def test_wrong_options_of_samplers_are_named():
    assert_refused(get_sampler, ValueError, sampler=("ddimm", 7), steps=(0,), spacing=("leadin",))
    assert_refused(get_sampler, ValueError, timesteps=([1, 5], [5, -1], [5.0, 1.0], []))
    assert_refused(get_sampler, ValueError, eta=(-0.5, np.nan))
    assert_refused(get_sampler, TypeError, steps=(2.5,), eta=("1",), max_growth=(2.0,))
    assert_refused(functools.partial(get_sampler, "heun"), ValueError, max_growth=(1,))
    for sampler, options, message in (
        ("ddim", {"stps": 5}, "stps=5: the options of .*did you mean 'steps'"),
        ("ddpm", {"eta": 0.5}, "eta=0.5: the options of sampler='ddpm' are spacing"),
        (DDIM(), {"steps": 5}, r"steps=5: give options to DDIM\(.*\) itself"),
    ):
        with pytest.raises(TypeError, match=message):
            get_sampler(sampler, **options)


@pytest.mark.once
def test_options_that_do_not_suit_the_diffusion_are_named():
    diffusion = GaussianDiffusion(10, "cosine", prediction="start")
    run = functools.partial(sample, lambda x_t, t: x_t, diffusion, np.zeros((2, 2)))
    assert_refused(run, ValueError, steps=(11,), timesteps=([10, 5],), eta=(3.0,))
    assert_refused(functools.partial(run, "dpm_solver++"), ValueError, eta=(3.0,))
