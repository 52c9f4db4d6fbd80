"""Which timesteps a sampler visits, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ddpm import GaussianDiffusion, sample
from keras_ddpm.samplers import DDIM, SPACINGS, make_sampler, plan_timesteps
from keras_ddpm.samplers.spacing import check_timesteps, choose_timesteps

THOUSAND = GaussianDiffusion(1000)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SPACINGS)), st.integers(1, 300), st.data())
def test_each_spacing_gives_exactly_the_steps_asked_for(spacing, timesteps, data):
    steps = data.draw(st.integers(1, timesteps))
    found = choose_timesteps(GaussianDiffusion(timesteps, schedule="cosine"), steps, spacing)
    assert found.shape == (steps,) and found.dtype == np.int32
    assert (np.diff(found) < 0).all()
    assert 0 <= found[-1] and found[0] < timesteps


@pytest.mark.parametrize("spacing", sorted(SPACINGS))
def test_all_steps_are_all_timesteps(spacing):
    np.testing.assert_array_equal(choose_timesteps(THOUSAND, 1000, spacing), np.arange(1000)[::-1])


@pytest.mark.parametrize(
    "spacing, expected",
    [
        ("linspace", [999, 666, 333, 0]),
        ("leading", [750, 500, 250, 0]),
        ("trailing", [999, 749, 499, 249]),
        ("quadratic", [999, 444, 111, 0]),
    ],
)
def test_four_of_a_thousand(spacing, expected):
    assert choose_timesteps(THOUSAND, 4, spacing).tolist() == expected


def test_leading_is_the_spacing_of_ddim():
    assert choose_timesteps(THOUSAND, 50, "leading").tolist() == list(range(980, -1, -20))
    assert choose_timesteps(GaussianDiffusion(10, "cosine"), 4, "leading").tolist() == [6, 4, 2, 0]


def test_logsnr_steps_are_even_in_log_snr():
    signal = THOUSAND.alphas_cumprod
    log_snr = np.log(signal / (1 - signal))
    timesteps = choose_timesteps(THOUSAND, 8, "logsnr")
    assert timesteps[0] == 999 and timesteps[-1] == 0
    wanted = np.linspace(log_snr[999], log_snr[0], 8)
    for t, value in zip(timesteps[1:-1], wanted[1:-1]):
        assert abs(log_snr[t] - value) <= log_snr[t - 1] - log_snr[t + 1]


def test_logsnr_steps_stay_distinct_where_one_beta_does_almost_all():
    diffusion = GaussianDiffusion(betas=[0.01] * 10 + [0.999] + [0.01] * 10)
    timesteps = choose_timesteps(diffusion, 8, "logsnr")
    assert len(set(timesteps.tolist())) == 8 and (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "quadratic", "logsnr"])
def test_one_step_starts_from_the_noisiest_timestep(spacing):
    assert choose_timesteps(THOUSAND, 1, spacing).tolist() == [999]


SILENT = GaussianDiffusion(1000, prediction="velocity", zero_terminal_snr=True)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "quadratic", "logsnr"])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_without_terminal_signal_every_spacing_starts_at_the_last_timestep(spacing, steps):
    timesteps = choose_timesteps(SILENT, steps, spacing)
    assert timesteps[0] == 999 and len(timesteps) == steps


def test_logsnr_steps_are_even_after_a_timestep_without_signal():
    signal = SILENT.alphas_cumprod[:-1]
    log_snr = np.log(signal / (1 - signal))
    timesteps = choose_timesteps(SILENT, 9, "logsnr")
    assert timesteps[0] == 999 and timesteps[1] == 998 and timesteps[-1] == 0
    wanted = np.linspace(log_snr[998], log_snr[0], 8)
    for t, value in zip(timesteps[2:-1], wanted[1:-1]):
        assert abs(log_snr[t] - value) <= log_snr[t - 1] - log_snr[t + 1]


def test_leading_cannot_start_without_signal():
    with pytest.raises(ValueError, match="spacing='leading' never visits .*spacing='trailing'"):
        choose_timesteps(SILENT, 50, "leading")


def test_steps_default_to_at_most_fifty():
    assert len(choose_timesteps(THOUSAND)) == 50
    assert len(choose_timesteps(GaussianDiffusion(20, "cosine"))) == 20


def test_explicit_timesteps_override_steps_and_spacing():
    found = plan_timesteps(THOUSAND, make_sampler("ddim"), 7, [900, 30, 2], "leading")
    assert found.tolist() == [900, 30, 2] and found.dtype == np.int32


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"steps": 11}, ValueError, "steps=11 is more than the 10 timesteps"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps must be an int, got 2.5"),
        ({"spacing": "leadin"}, ValueError, "spacing='leadin' .*did you mean 'leading'"),
        ({"timesteps": [1, 5]}, ValueError, r"timesteps=\[1, 5\] must descend"),
        ({"timesteps": [5, 5]}, ValueError, r"timesteps=\[5, 5\] must descend"),
        ({"timesteps": [10, 5]}, ValueError, r"timesteps=\[10, 5\] must lie in \[0, 9\]"),
        ({"timesteps": [5, -1]}, ValueError, r"timesteps=\[5, -1\] must lie in \[0, 9\]"),
        ({"timesteps": [5.0, 1.0]}, ValueError, r"must be a list of ints, got \[5.0, 1.0\]"),
        ({"timesteps": []}, ValueError, r"must be a list of ints, got \[\]"),
        ({"timesteps": [[3, 2]]}, ValueError, "must be a list of ints"),
        ({"sampler": "ddimm"}, ValueError, "sampler='ddimm' is unknown.*did you mean 'ddim'"),
        ({"sampler": 7}, ValueError, "sampler=7 is unknown"),
        ({"eta": -0.5}, ValueError, "eta must be at least 0 .*got -0.5"),
        ({"eta": float("nan")}, ValueError, "eta must be at least 0 .*got nan"),
        ({"eta": 3.0}, ValueError, "eta=3.0 adds more noise than a step may hold; try eta <= 1"),
        ({"sampler": "dpm_solver++", "eta": -0.5}, ValueError, "eta must be at least 0 .*got -0.5"),
        (
            {"sampler": "dpm_solver++", "eta": 3.0},
            ValueError,
            "eta=3.0 adds more noise than a step",
        ),
        (
            {"sampler": "ddpm", "eta": 0.5},
            ValueError,
            "eta=0.5 belongs to sampler='ddim' or 'dpm_solver",
        ),
    ],
)
def test_wrong_sampling_arguments_are_named_with_what_would_work(kwargs, error, message):
    diffusion = GaussianDiffusion(10, "cosine", prediction="start")
    with pytest.raises(error, match=message):
        sample(lambda x_t, t: x_t, diffusion, np.zeros((2, 2)), **kwargs)


def test_a_sampler_object_is_taken_as_it_is():
    sampler = DDIM(0.5)
    assert make_sampler(sampler) is sampler
    assert make_sampler("ddim", 0.5) is make_sampler("ddim", 0.5)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 999), min_size=1, max_size=20))
def test_any_descending_list_is_accepted(chosen):
    timesteps = sorted(chosen, reverse=True)
    assert check_timesteps(timesteps, THOUSAND).tolist() == timesteps
