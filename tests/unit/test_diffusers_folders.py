"""Folders of diffusers, written and read without it: nothing changes, and what differs is named."""

import json
import shutil

import numpy as np
import pytest
from tools import random_weights, tiny_network

from keras_ddpm import DiffusionModel, GaussianDiffusion, UNet
from keras_ddpm.diffusers import from_diffusers, scheduler, to_diffusers, unet
from keras_ddpm.layers import SelfAttention

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
OPTIONS = {"channels": 1, "widths": (8, 16), "num_res_blocks": 1, "norm_groups": 4}


@pytest.fixture(scope="module")
def model():
    network = UNet(8, has_attention=(True, False), num_classes=3, **OPTIONS)
    model = DiffusionModel(network, GaussianDiffusion(50, "cosine"))
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    return model


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    return to_diffusers(model, tmp_path_factory.mktemp("written") / "model")


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "mine")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_averaged_network_comes_back_bit_for_bit(model, written):
    network, diffusion, sampling = from_diffusers(written)
    assert network.get_config() == model.ema_network.get_config()
    assert diffusion.get_config() == model.diffusion.get_config()
    assert sampling == {"clip_denoised": True, "spacing": "leading"}
    for found, expected in zip(network.get_weights(), model.ema_network.get_weights()):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(network.get_weights()[0], model.network.get_weights()[0])


@pytest.mark.once
def test_every_process_comes_back():
    for options in (
        {"timesteps": 100, "schedule": "cosine", "prediction": "start", "variance": "beta"},
        {"betas": np.linspace(0.01, 0.5, 30), "prediction": "velocity"},
        {"beta_start": 1e-3, "beta_end": 0.3, "prediction": "start", "zero_terminal_snr": True},
    ):
        diffusion = GaussianDiffusion(**options)
        config = json.loads(json.dumps(scheduler.config_of(diffusion)))
        back, _ = scheduler.diffusion_from_config(config)
        assert back.get_config() == diffusion.get_config()


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 1, "has_attention": (True, False), "image_size": (8, 12)},
        {"head_dim": 4, "num_classes": 3, "downsample_padding": "both", "norm_epsilon": 1e-3},
        {"num_heads": 2, "cosine_first": True, "freq_shift": 0, "dropout": 0.2},
        {"num_res_blocks": 2, "channels": 3, "norm_groups": 2},
    ],
    ids=str,
)
def test_every_network_comes_back(options):
    options = {"image_size": 8, "has_attention": (False, False), **OPTIONS, **options}
    network = UNet(**options)
    back = unet.network_from_config(json.loads(json.dumps(unet.config_of(network))))
    ways = {"num_heads": None, "head_dim": None}  # which say the same
    assert back.get_config() | ways == network.get_config() | ways
    ours, theirs = (
        [x.num_heads for x in one.layers if isinstance(x, SelfAttention)] for one in (network, back)
    )
    assert ours == theirs != []
    assert len(unet.named_variables(network)) == len(network.weights)  # each has its own name


@pytest.mark.once
@pytest.mark.parametrize(
    "config, changes, message",
    [
        (UNET, {"act_fn": "gelu"}, "^act_fn='gelu' is not supported"),
        (UNET, {"add_attention": False}, "^add_attention=False "),
        (UNET, {"time_embedding_dim": 16}, "^time_embedding_dim=16 "),
        (UNET, {"downsample_padding": 2}, "^downsample_padding=2 "),
        (UNET, {"num_class_embeds": 1}, "^num_class_embeds=1 "),
        (UNET, {"encoder_hid_dim": 12}, "^encoder_hid_dim=12 .* unknown"),
        (UNET, {"out_channels": 2}, "in_channels=1 and out_channels=2 must be equal"),
        (UNET, {"sample_size": None}, "sample_size is missing: give image_size"),
        (UNET, {"down_block_types": ["SkipDownBlock2D"]}, "^down_block_types='SkipDownBlock2D' "),
        (UNET, {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}, "must mirror each other"),
        (UNET, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel, not of a UNet2DM"),
        (UNET, {"block_out_channels": [8, 24]}, r"has shape \(.*\), but the config says \("),
        (UNET, {"layers_per_block": 2}, "tensors are missing, such as 'down_blocks.0.attentions.1"),
        (UNET, {"num_class_embeds": None}, "1 tensors are unknown, such as 'class_embedding.wei"),
        (SCHEDULER, {"variance_type": "learned_range"}, "^variance_type='learned_range' "),
        (SCHEDULER, {"beta_schedule": "sigmoid"}, "^beta_schedule='sigmoid' "),
        (SCHEDULER, {"prediction_type": "flow"}, "^prediction_type='flow' "),
        (SCHEDULER, {"timestep_spacing": "karras"}, "^timestep_spacing='karras' "),
        (SCHEDULER, {"steps_offset": 1}, "^steps_offset=1 "),
    ],
)
def test_what_the_package_does_not_have_or_the_tensors_do_not_fit(folder, config, changes, message):
    edit(folder / config, **changes)
    with pytest.raises(ValueError, match=message):
        from_diffusers(folder)


@pytest.mark.once
def test_settings_with_another_spelling(folder):
    """The usual size of the time embedding; an image size of one's own; thresholding at 1."""
    edit(folder / UNET, time_embedding_dim=4 * 8, sample_size=None)
    edit(folder / SCHEDULER, thresholding=True, clip_sample=False)
    network, _, sampling = from_diffusers(folder, image_size=(16, 8))
    assert network.input_shape[0] == (None, 16, 8, 1)
    assert sampling["clip_denoised"] is True
    edit(folder / SCHEDULER, sample_max_value=2.0)
    with pytest.raises(ValueError, match="sample_max_value=2.0 is not supported"):
        from_diffusers(folder, image_size=(16, 8))


@pytest.mark.once
def test_files_that_are_damaged_or_missing(folder):
    def refused(message, kind=ValueError):
        with pytest.raises(kind, match=message):
            from_diffusers(folder)

    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-20])
    refused("safetensors is damaged")
    weights = weights.rename(weights.with_suffix(".bin"))
    refused("is a pickle, .*Convert it .*save_pretrained")
    weights.unlink()
    refused("there is no .*safetensors", FileNotFoundError)
    (folder / UNET).write_text("{")
    refused("config.json is damaged")
    (folder / SCHEDULER).unlink()
    (folder / UNET).write_text("{}")
    refused("there is no .*scheduler_config.json", FileNotFoundError)
    edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    refused("is of a StableDiffusionPipeline, not of DDPMPipeline or")
    shutil.rmtree(folder)
    refused("there is no folder '.*mine'", FileNotFoundError)


@pytest.mark.once
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path):
    heads = UNet(8, has_attention=(True, True), num_heads=2, **OPTIONS)
    for network, message in (
        (heads, r"num_heads=2 gives heads of \[4, 8\] channels"),
        (tiny_network(), "is not a UNet"),
    ):
        with pytest.raises(ValueError, match=message):
            to_diffusers(DiffusionModel(network, GaussianDiffusion(50, "cosine")), tmp_path / "a")
    assert not (tmp_path / "a").exists()
