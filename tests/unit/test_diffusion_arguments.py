"""The config of a `GaussianDiffusion`, its warning, and arguments that it refuses."""

import re
import warnings

import keras
import numpy as np
import pytest

from keras_ddpm import GaussianDiffusion

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"timesteps": 300, "beta_start": 3e-4, "beta_end": 0.07, "variance": "beta"},
        {"schedule": "cosine", "prediction": "velocity", "zero_terminal_snr": True},
        {"betas": np.array([0.5, 1.0]), "prediction": "velocity"},
        {"betas": [0.1, 0.2], "prediction": "start", "zero_terminal_snr": True},
    ],
)
def test_a_config_gives_the_same_diffusion_again(kwargs):
    d = GaussianDiffusion(**kwargs)
    if not kwargs:  # the defaults of Ho et al.
        assert (d.timesteps, d.betas[0], d.betas[-1]) == (1000, 1e-4, 0.02)
        assert (d.prediction, d.variance) == ("noise", "posterior")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(d))
    assert type(again) is GaussianDiffusion
    np.testing.assert_array_equal(again.betas, d.betas)
    np.testing.assert_array_equal(again.model_log_variance, d.model_log_variance)
    assert again.get_config() == d.get_config()
    assert repr(again) == repr(d) and repr(d.prediction) in repr(d)


@pytest.mark.parametrize("timesteps", [5, 250, 500])
def test_a_short_linear_schedule_warns_and_its_advice_works(timesteps):
    with pytest.warns(UserWarning, match=f"timesteps={timesteps}: ") as record:
        GaussianDiffusion(timesteps)
    assert record[0].filename == __file__
    message = str(record[0].message)
    assert "schedule='cosine'" in message and "timesteps=1000" in message
    advice = re.findall(r"(beta_start|beta_end)=([\d.e-]+\d)", message)
    if timesteps == 250:
        assert advice == [("beta_start", "0.0004"), ("beta_end", "0.08")]
    with warnings.catch_warnings(action="error"):
        GaussianDiffusion(timesteps, **{name: float(value) for name, value in advice})
        for schedule, steps in (("linear", 1000), ("cosine", 1000), ("cosine", 50)):
            GaussianDiffusion(steps, schedule)
