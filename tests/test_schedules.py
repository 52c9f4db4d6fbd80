"""Beta schedules against their formulas, and the warning for signal that is left over."""

import math
import re
import warnings

import numpy as np
import pytest

from keras_ddpm import GaussianDiffusion
from keras_ddpm.schedules import cosine_betas, linear_betas, without_terminal_signal


@pytest.mark.parametrize("timesteps", [2, 10, 1000])
def test_linear_betas_are_evenly_spaced(timesteps):
    by_hand = [1e-4 + (0.02 - 1e-4) * i / (timesteps - 1) for i in range(timesteps)]
    betas = linear_betas(timesteps)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, by_hand, rtol=1e-13)


def test_linear_end_points_are_arguments():
    np.testing.assert_allclose(linear_betas(3, 0.1, 0.5), [0.1, 0.3, 0.5])


@pytest.mark.parametrize("timesteps", [1, 10, 1000])
def test_cosine_betas_follow_the_squared_cosine(timesteps):
    def signal(step):
        return math.cos((step / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    by_hand = [min(1 - signal(s + 1) / signal(s), 0.999) for s in range(timesteps)]
    betas = cosine_betas(timesteps)
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas, by_hand, rtol=1e-10)


def test_cosine_alphas_cumprod_is_the_cosine_until_the_clipped_last_beta():
    alphas_cumprod = GaussianDiffusion(1000, schedule="cosine").alphas_cumprod
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t in (0, 1, 250, 500, 998):
        angle = ((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2
        assert alphas_cumprod[t] == pytest.approx(math.cos(angle) ** 2 / start, rel=1e-9)
    assert alphas_cumprod[999] == pytest.approx(alphas_cumprod[998] * 0.001, rel=1e-9)


@pytest.mark.parametrize("schedule, last", [("linear", 4.0358297e-05), ("cosine", 2.4287e-09)])
def test_almost_no_signal_is_left_after_1000_steps(schedule, last):
    diffusion = GaussianDiffusion(1000, schedule=schedule)
    assert diffusion.alphas_cumprod[-1] == pytest.approx(last, rel=1e-4)


def test_defaults_are_the_published_ones():
    diffusion = GaussianDiffusion()
    assert diffusion.timesteps == 1000
    assert diffusion.betas[0] == 1e-4 and diffusion.betas[-1] == 0.02
    assert diffusion.prediction == "noise" and diffusion.variance == "posterior"


def test_a_short_linear_schedule_warns_and_its_advice_works():
    with pytest.warns(UserWarning, match="timesteps=250") as record:
        GaussianDiffusion(250)
    assert record[0].filename == __file__
    message = str(record[0].message)
    assert "schedule='cosine'" in message and "timesteps=1000" in message
    advice = dict(re.findall(r"(beta_start|beta_end)=([\d.e-]+\d)", message))
    assert advice == {"beta_start": "0.0004", "beta_end": "0.08"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianDiffusion(250, **{name: float(value) for name, value in advice.items()})


@pytest.mark.parametrize("timesteps", [5, 20, 33, 100, 300, 500])
def test_the_advice_works_for_any_short_schedule(timesteps):
    with pytest.warns(UserWarning) as record:
        GaussianDiffusion(timesteps)
    advice = re.findall(r"(beta_start|beta_end)=([\d.e-]+\d)", str(record[0].message))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianDiffusion(timesteps, **{name: float(value) for name, value in advice})


@pytest.mark.parametrize(
    "timesteps, schedule", [(1000, "linear"), (1000, "cosine"), (50, "cosine")]
)
def test_schedules_that_end_in_noise_do_not_warn(timesteps, schedule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianDiffusion(timesteps, schedule=schedule)


# ---- zero terminal SNR ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [2, 50, 1000])
def test_without_terminal_signal_stretches_the_signals_rate(schedule, timesteps):
    betas = linear_betas(timesteps) if schedule == "linear" else cosine_betas(timesteps)
    before = np.sqrt(np.cumprod(1 - betas))
    rescaled = without_terminal_signal(betas)
    after = np.sqrt(np.cumprod(1 - rescaled))
    # A line through the old rates that keeps the first and takes the last to zero.
    slope = before[0] / (before[0] - before[-1])
    np.testing.assert_allclose(after, slope * (before - before[-1]), atol=1e-12)
    assert rescaled[-1] == 1 and after[0] == pytest.approx(before[0], rel=1e-14)
    assert ((rescaled > 0) & (rescaled <= 1)).all()


def test_a_diffusion_without_terminal_signal_has_finite_tables_where_they_are_used():
    diffusion = GaussianDiffusion(100, prediction="velocity", zero_terminal_snr=True)
    assert diffusion.alphas_cumprod[-1] == 0 and diffusion.betas[-1] == 1
    for table in ("posterior_mean_coef1", "posterior_mean_coef2", "model_log_variance"):
        assert np.isfinite(getattr(diffusion, table)).all()
    again = GaussianDiffusion.from_config(diffusion.get_config())
    np.testing.assert_array_equal(again.betas, diffusion.betas)
    custom = GaussianDiffusion(betas=[0.1, 0.2], prediction="start", zero_terminal_snr=True)
    again = GaussianDiffusion.from_config(custom.get_config())
    np.testing.assert_array_equal(again.betas, custom.betas)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"prediction": "noise"}, "prediction='noise' does not go with .*zero_terminal_snr=True"),
        ({"prediction": "velocity", "timesteps": 1}, "timesteps of at least 2, got 1"),
    ],
)
def test_zero_terminal_snr_refuses_what_it_cannot_do(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusion(schedule="cosine", zero_terminal_snr=True, **kwargs)
