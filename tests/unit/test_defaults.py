"""Defaults as they are documented, and choices that have no test of their own elsewhere."""

import inspect
import re

import numpy as np
import pytest
from tools import make_model, shared_model

from keras_ddpm import (
    MLP,
    Checkpoint,
    DiffusionModel,
    FusedAdam,
    GaussianDiffusion,
    ImageDataset,
    OptimalDenoiser,
    SampleImages,
    UNet,
    inpaint,
    interpolate,
    invert,
    sample,
    slerp,
)
from keras_ddpm.callbacks import CSVLog, Throughput
from keras_ddpm.layers import ResidualBlock, SelfAttention
from keras_ddpm.metrics import kid, memorised_share, nearest_grid
from keras_ddpm.samplers import choose_frames
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.repaint import RePaint
from keras_ddpm.schedules import min_snr_weights

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "function, defaults",
    [
        (min_snr_weights, {"gamma": 5.0}),
        (ResidualBlock, {"norm_groups": 32, "norm_epsilon": 1e-6}),
        (SelfAttention, {"num_heads": 1, "norm_groups": 32, "norm_epsilon": 1e-6}),
        (UNet, {"norm_groups": 8, "norm_epsilon": 1e-6, "num_res_blocks": 2, "dropout": 0.0}),
        (DiffusionModel, {"ema_decay": 0.999, "label_dropout": 0.1, "seed": None}),
        (DiffusionModel.generate, {"sampler": None, "batch_size": 64, "guidance_scale": 1.0}),
        (sample, {"sampler": "ddim", "clip_denoised": False, "seed": 0}),
        (RePaint, {"resample_steps": 5, "jump_length": 5}),
        (DDIMInversion, {"evaluations": 3}),
        (invert, {"evaluations": 3, "spacing": "trailing"}),
        (inpaint, {"resample_steps": 5, "jump_length": 5, "spacing": "trailing"}),
        (interpolate, {"mix": "slerp", "shares": (0, 0.25, 0.5, 0.75, 1), "strength": 0.5}),
    ],
)
def test_defaults(function, defaults):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_images_are_clipped_and_points_are_not():
    assert shared_model().choose_clip(None) is True
    assert make_model(network=MLP(2, 8, 1)).choose_clip(None) is False


def test_a_copy_is_at_most_a_third_as_far_as_the_second_nearest():
    data = np.zeros((2, 1, 1, 1), "uint8")
    data[1] = 100
    share, _ = memorised_share(np.uint8([[[[24]]], [[[26]]]]), data)  # 24 : 76 and 26 : 74
    assert share == 0.5


def test_the_angle_of_slerp_does_not_depend_on_lengths():
    found = slerp(np.array([[2.0, 0.0]]), np.array([[3.0, 3.0]]), 0.5)
    weight = np.sin(np.pi / 8) / np.sin(np.pi / 4)
    np.testing.assert_allclose(found, weight * np.array([[5.0, 3.0]]), rtol=1e-6)


def test_frames_are_the_nearest_to_even_ones():
    assert choose_frames("frames", 4, 6) == (0, 2, 3, 5)


def test_a_layer_keeps_remat_in_its_config():
    for layer in (SelfAttention(remat=True), ResidualBlock(4, remat=True)):
        assert type(layer).from_config(layer.get_config()).remat is True


def test_limits_are_inclusive_or_not_as_documented():
    images, features = np.zeros((2, 4, 4, 1), "uint8"), np.eye(3)
    with pytest.raises(ValueError, match="indices must lie in"):
        nearest_grid(images, images, [[0], [2]])
    with pytest.raises(ValueError, match="features_a .* n >= 3"):
        kid(features[:2], features)


def test_what_is_printed_of_an_object_are_its_options(tmp_path):
    network = MLP(width=8, depth=1)
    data = ImageDataset(np.zeros((4, 8, 8, 3), "uint8"), batch_size=2, flip=False)
    samples = SampleImages(every=3, sampler="ddpm", steps=5)
    for value, parts in (
        (GaussianDiffusion(50, "cosine"), ("GaussianDiffusion(timesteps=50", "'cosine'")),
        (network, ("MLP(features=2, width=8, depth=1",)),
        (UNet(16, widths=(8,), has_attention=(False,)), ("UNet(image_size=(16, 16)", "widths=")),
        (DiffusionModel(network, ema_decay=0.5), ("DiffusionModel(network=MLP(", "ema_decay=0.5")),
        (
            FusedAdam(0.25, global_clipnorm=1.0),
            ("FusedAdam(learning_rate=0.25", "global_clipnorm=1.0"),
        ),
        (data, ("ImageDataset(images=<array (4, 8, 8, 3)>", "batch_size=2", "flip=False")),
        (samples, ("SampleImages(directory=None, every=3", "DDPM(steps=5", "seed")),
        (Checkpoint(tmp_path, keep=7), ("Checkpoint(directory=", "keep=7")),
        (OptimalDenoiser(np.zeros((4, 2)), GaussianDiffusion()), ("OptimalDenoiser(data=",)),
        (CSVLog("log.csv"), ("CSVLog(path=", "log.csv")),
        (Throughput(4, 2), ("Throughput(images_per_epoch=4, epochs=2, seconds=10.0)",)),
        (make_model(3, class_names=("a", "b", "c")), ("class_names=['a', 'b', 'c']",)),
    ):
        assert all(part in repr(value) for part in parts), repr(value)


def test_help_begins_with_what_one_calls():
    text = inspect.getdoc(DiffusionModel)
    assert text.index("model.generate(") < text.index("`save`") < text.index("Args:")
    for name in re.findall(r"`(\w+)`[,:]", text[: text.index("Args:")]):
        assert callable(getattr(DiffusionModel, name)), name
