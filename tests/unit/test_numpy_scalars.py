"""NumPy's scalars in the place of Python's: the results are the same, and configs stay JSON."""

import json

import keras
import numpy as np
import pytest
from tools import FLOATS, shared_model

import keras_ddpm as kd
from keras_ddpm import layers, metrics

pytestmark = pytest.mark.once
SCALARS = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
LEVELS = {"widths": (8, 16), "has_attention": (False, True), "num_res_blocks": 1, "norm_groups": 4}
BLOCK = {"norm_groups": 4, "norm_epsilon": 1e-5, "remat": True, "name": "block"}
SCHEDULE = {"schedule": "cosine", "prediction": "start", "zero_terminal_snr": True}


def to_numpy(value):
    """A value, or all values of a tuple or dict, as NumPy's scalars."""
    return keras.tree.map_structure(lambda leaf: SCALARS[type(leaf)](leaf), value)


@pytest.mark.parametrize(
    "make, options",
    [
        (kd.GaussianDiffusion, {"timesteps": 50, "variance": "beta", **SCHEDULE}),
        (kd.GaussianDiffusion, {"beta_start": 1e-3, "beta_end": 0.03}),
        (kd.UNet, {"image_size": 8, "channels": 1, "num_heads": 2, "num_classes": 3, **LEVELS}),
        (kd.UNet, {"image_size": (8, 8), "head_dim": 4, "dropout": 0.5, "freq_shift": 0, **LEVELS}),
        (kd.UNet, {"image_size": 8, "cosine_first": True, "downsample_padding": "both", **LEVELS}),
        (kd.MLP, {"features": 3, "width": 8, "depth": 1, "num_classes": 2, "dtype": "float32"}),
        (layers.TimeEmbedding, {"dim": 8, "cosine_first": True, "freq_shift": 0, "name": "time"}),
        (layers.ResidualBlock, {"width": 8, "dropout": 0.5, **BLOCK}),
        (layers.SelfAttention, {"num_heads": 2, **BLOCK}),
        (layers.VarianceScaling, {"seed": 3}),
        (kd.FusedAdam, {"learning_rate": 0.5, "beta_1": 0.5, "epsilon": 1e-6, "name": "adam"}),
    ],
)
def test_a_config_is_that_of_python_numbers(make, options):
    expected = json.dumps(make(**options).get_config())
    config = json.dumps(make(**to_numpy(options)).get_config())
    assert config == expected
    assert json.dumps(make.from_config(json.loads(config)).get_config()) == expected


@pytest.mark.parametrize(
    "function, options",
    [
        ("generate", {"num_images": 2, "steps": 2, "eta": 0.5, "seed": 1, "spacing": "leading"}),
        ("generate", {"num_images": 3, "steps": 2, "seed": 1, "batch_size": 2, "sampler": "ddpm"}),
        ("generate", {"num_images": 2, "timesteps": (9, 2), "seed": 1, "clip_denoised": False}),
        ("generate", {"num_images": 2, "steps": 2, "seed": 1, "progress": False}),
        (
            "generate",
            {"num_images": 2, "sampler": "heun", "max_growth": 9.0, "steps": 2, "seed": 1},
        ),
        (kd.image_to_image, {"strength": 0.5, "seed": 1, "steps": 2}),
        (kd.invert, {"evaluations": 2, "steps": 2}),
        (kd.inpaint, {"resample_steps": 2, "jump_length": 1, "steps": 2, "seed": 1}),
        (
            kd.interpolate,
            {"shares": (0.0, 0.5), "mix": "lerp", "strength": 0.5, "steps": 2, "seed": 1},
        ),
        (kd.image_grid, {"columns": 3, "padding": 1}),
        (metrics.nearest_neighbours, {"k": 2}),
        (metrics.extract, {"batch_size": 3}),
        (metrics.kid, {"block_size": 3}),
        (metrics.frechet_bias, {"count": 9}),
    ],
)
def test_a_result_is_that_of_python_numbers(function, options):
    model, rows = shared_model(), FLOATS.reshape(8, -1)[:, :3]
    first = {
        "generate": (),
        kd.image_to_image: (model, FLOATS),
        kd.invert: (model, FLOATS),
        kd.inpaint: (model, FLOATS, np.arange(64).reshape(8, 8) % 2),
        kd.interpolate: (model, FLOATS, FLOATS[::-1]),
        kd.image_grid: (FLOATS,),
        metrics.nearest_neighbours: (FLOATS, FLOATS),
        metrics.extract: (lambda x: x.mean((1, 2)), FLOATS),
        metrics.kid: (rows, rows + 1),
        metrics.frechet_bias: (rows,),
    }[function]
    function = model.generate if function == "generate" else function
    expected, found = function(*first, **options), function(*first, **to_numpy(options))
    np.testing.assert_array_equal(found, expected)
