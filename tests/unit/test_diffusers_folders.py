"""Folders of diffusers, written and read without it: nothing changes, and what differs is named."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tools import assert_refused, random_weights, tiny_network

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
    flow = GaussianDiffusion(50, "flow", prediction="velocity")  # theirs has no such name
    back, _ = scheduler.diffusion_from_config(scheduler.config_of(flow))
    np.testing.assert_array_equal(back.alphas_cumprod, flow.alphas_cumprod)


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
        (SCHEDULER, {"set_alpha_to_one": False}, "^set_alpha_to_one=False "),
        (SCHEDULER, {"clip_sample_range": 2.0}, "^clip_sample_range=2.0 "),
        (SCHEDULER, {"sigma_data": 0}, "^sigma_data=0 .* unknown"),
        (SCHEDULER, {"num_train_timesteps": "50"}, "^num_train_timesteps='50' must be an int"),
        (SCHEDULER, {"beta_start": None}, "^beta_start=None must be a number"),
        (SCHEDULER, {"clip_sample": "false"}, "^clip_sample='false' must be true or false"),
        (SCHEDULER, {"beta_schedule": ["linear"]}, r"^beta_schedule=\['linear'\] "),
        (SCHEDULER, {"trained_betas": [0.1, 0.9]}, "^num_train_timesteps=50 is not the 2 "),
        (SCHEDULER, {"_class_name": "DDIMScheduler"}, "names a DDPMScheduler, but .* another"),
        (UNET, {"layers_per_block": 1.0}, "^layers_per_block=1.0 must be an int"),
        (UNET, {"layers_per_block": True}, "^layers_per_block=True must be an int"),
        (UNET, {"flip_sin_to_cos": 1}, "^flip_sin_to_cos=1 must be true or false"),
        (UNET, {"norm_num_groups": None}, "^norm_num_groups=None must be an int"),
        (UNET, {"block_out_channels": ["8", 16]}, r"^block_out_channels=\['8', 16\] "),
        (UNET, {"block_out_channels": 8}, "^block_out_channels=8 must be a list"),
        (UNET, {"sample_size": ["8", 8]}, "^sample_size="),
        (UNET, {"act_fn": ["silu"]}, r"^act_fn=\['silu'\] "),
        (UNET, {"hidden": []}, r"^hidden=\[\] .* unknown"),
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
    edit(folder / UNET, down_block_types=["UNetResAttnDownBlock2D", "UNetResDownBlock2D"])
    edit(folder / UNET, unused=None, unused_too=False, _diffusers_version="0.1.1")
    assert from_diffusers(folder, image_size=8).network.get_config()["has_attention"][0]


@pytest.mark.once
def test_older_names_of_settings_of_a_scheduler():
    def read(**config):
        diffusion, sampling = scheduler.diffusion_from_config(config)
        return diffusion.prediction, diffusion.timesteps, sampling["clip_denoised"]

    assert read(tensor_format="pt") == ("noise", 1000, True)
    assert read(predict_epsilon=False, prediction_type="sample") == ("start", 1000, True)
    assert read(predict_epsilon=True, clip_predicted_image=False) == ("noise", 1000, False)
    assert read(timesteps=2000) == ("noise", 2000, True)
    with pytest.raises(ValueError, match="^prediction_type='epsilon' contradicts predict_epsilon"):
        read(predict_epsilon=False, prediction_type="epsilon")


@pytest.mark.once
@pytest.mark.parametrize("kind", scheduler.SCHEDULERS)
def test_thresholding_is_clipping_at_1_and_refused_elsewhere(kind):
    config = {"_class_name": kind, "thresholding": True, "clip_sample": False}
    _, sampling = scheduler.diffusion_from_config(config)
    assert sampling["clip_denoised"] is True
    for largest in (0.5, 2.0):
        with pytest.raises(ValueError, match=f"^sample_max_value={largest} is not supported"):
            scheduler.diffusion_from_config({**config, "sample_max_value": largest})
    scheduler.diffusion_from_config({**config, "thresholding": False, "sample_max_value": 2.0})


@pytest.mark.once
def test_schedulers_of_other_classes_are_refused_by_name(folder):
    for kind in (
        "FlowMatchEulerDiscreteScheduler",
        "EDMEulerScheduler",
        "ScoreSdeVeScheduler",
        "LCMScheduler",
        "DPMSolverMultistepScheduler",
        "DDPMWuerstchenScheduler",
        None,
        ["DDPMScheduler"],
    ):
        edit(folder / SCHEDULER, _class_name=kind)
        with pytest.raises(
            ValueError, match="^_class_name=.* only DDPMScheduler, .*DDIM"
        ) as caught:
            from_diffusers(folder)
        assert f"{kind!r} is not supported" in str(caught.value)
    # Without a class in its own file, that which the pipeline names; and without both, DDPM.
    (folder / SCHEDULER).write_text("{}")
    edit(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    with pytest.raises(ValueError, match="^_class_name='EDMEulerScheduler' "):
        from_diffusers(folder)
    (folder / "model_index.json").unlink()
    assert from_diffusers(folder).diffusion.timesteps == 1000
    network = json.loads((folder / UNET).read_text())
    del network["_class_name"]
    (folder / UNET).write_text(json.dumps(network))
    pipeline = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(pipeline))
    with pytest.raises(ValueError, match="is of a UNet2DConditionModel"):
        from_diffusers(folder)
    (folder / "model_index.json").unlink()
    (folder / SCHEDULER).write_text('{"num_train_timesteps": 1000, "shift": 1.0}')
    with pytest.raises(ValueError, match="^shift=1.0 .* unknown"):
        from_diffusers(folder)


def split_weights(folder, variant=""):
    """Writes the weights into two files and an index, in the place of the one file."""
    tensors = load_file(folder / WEIGHTS)
    names = [f"diffusion_pytorch_model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: names[i % 2] for i, name in enumerate(tensors)}
    for name in names:
        part = {tensor: x for tensor, x in tensors.items() if places[tensor] == name}
        save_file(part, folder / "unet" / name)
    index = folder / "unet" / f"diffusion_pytorch_model.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / WEIGHTS).unlink()
    return index, places


@pytest.mark.once
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files_are_read(model, folder, variant):
    split_weights(folder, variant)
    found = from_diffusers(folder).network.get_weights()
    for array, expected in zip(found, model.ema_network.get_weights()):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.once
def test_weights_of_a_variant_are_read_if_there_are_no_others(model, folder):
    tensors, unet_folder = load_file(folder / WEIGHTS), (folder / WEIGHTS).parent
    halves = {name: x.astype("float16") for name, x in tensors.items()}
    save_file(halves, unet_folder / "diffusion_pytorch_model.fp16.safetensors")

    def first():
        return from_diffusers(folder).network.get_weights()[0]

    exact = model.ema_network.get_weights()[0]
    np.testing.assert_array_equal(first(), exact)
    (folder / WEIGHTS).unlink()
    np.testing.assert_array_equal(first(), exact.astype("float16").astype("float32"))
    save_file(tensors, unet_folder / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(ValueError, match="2 variants: .*fp16.safetensors, .*non_ema.*Rename"):
        from_diffusers(folder)


@pytest.mark.once
def test_an_index_that_is_damaged_or_leads_elsewhere(folder):
    index, places = split_weights(folder)
    name = next(iter(places))
    shutil.copy(folder / "unet" / places[name], folder / "outside.safetensors")
    for weight_map, message in (
        (None, "weight_map names no tensors"),
        ({}, "weight_map names no tensors"),
        (["a"], "weight_map names no tensors"),
        ({**places, name: "../outside.safetensors"}, "is no name of a safetensors file"),
        ({**places, name: str(folder / "outside.safetensors")}, "is no name of a safetensors"),
        ({**places, name: "config.json"}, "'config.json' is no name of a safetensors"),
        ({**places, name: 3}, "3 is no name of a safetensors"),
        ({**places, "more.weight": places[name]}, "is without 'more.weight'"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match=message):
            from_diffusers(folder)
    index.write_text(json.dumps({"weight_map": places}))
    (folder / "unet" / places[name]).unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*-of-00002.safetensors"):
        from_diffusers(folder)


@pytest.mark.once
def test_writing_over_weights_in_several_files_leaves_no_index(model, folder):
    index, _ = split_weights(folder)
    to_diffusers(model, folder)
    assert not index.exists()
    from_diffusers(folder)


@pytest.mark.once
def test_tensors_that_are_no_floats_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.bias"] = np.zeros(8, "int8")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match="'conv_in.bias' has dtype int8"):
        from_diffusers(folder)


@pytest.mark.once
@pytest.mark.parametrize("name", [UNET, SCHEDULER, "model_index.json"])
def test_files_of_json_that_hold_no_object_are_damaged(folder, name):
    for content in (b"[]", b"null", b"3", b"{", b"", b"\xff\xfe", b"[" * 100_000):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            from_diffusers(folder)


@pytest.mark.once
def test_wrong_arguments_are_named(model, tmp_path):
    assert_refused(from_diffusers, TypeError, folder=(None, 3, ""))
    assert_refused(partial(to_diffusers, folder=tmp_path), TypeError, model=(None, model.network))
    assert_refused(partial(to_diffusers, model), TypeError, folder=(None, ""))


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
    (folder / "unet" / "flax.msgpack").touch()
    refused("there is no .*safetensors; the folder has .*'flax.msgpack'", FileNotFoundError)
    (folder / UNET).write_text("{")
    refused("config.json is damaged")
    (folder / SCHEDULER).unlink()
    (folder / UNET).write_text("{}")
    refused("there is no .*scheduler_config.json", FileNotFoundError)
    (folder / "model_index.json").write_text("{}")
    refused("is of a None, not of DDPMPipeline or")
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
        (UNet(8, has_attention=(False, False), patch_size=2, **OPTIONS), "patch_size=2: a UNet2D"),
    ):
        with pytest.raises(ValueError, match=message):
            to_diffusers(DiffusionModel(network, GaussianDiffusion(50, "cosine")), tmp_path / "a")
    assert not (tmp_path / "a").exists()
