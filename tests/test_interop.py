"""Folders of diffusers: read, written, run by its own pipelines, refused where they do not fit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import compiled, random_weights, tiny_network, to_numpy
from keras import ops
from safetensors.numpy import load_file, save_file

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet
from keras_ddpm.interop import from_diffusers, to_diffusers

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAMES = ("cifar10", "celebahq", "train_unconditional", "odd")
HERE = Path(__file__).parent
with_diffusers = pytest.mark.needs("diffusers", "torch")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Random models, written by diffusers itself in another process."""
    root = tmp_path_factory.mktemp("diffusers")
    script = HERE / "make_diffusers_folders.py"
    subprocess.run([sys.executable, script, root], check=True, env={**os.environ, "PYTHONPATH": ""})
    return root


def answer_of(folder):
    """Inputs in our order, and diffusers' output in ours."""
    answer = np.load(folder / "answer.npz")
    inputs = [answer["x_t"].transpose(0, 2, 3, 1), answer["t"].astype("int32")]
    if "label" in answer:
        inputs.append(answer["label"].astype("int32"))
    return inputs, answer["output"].transpose(0, 2, 3, 1), answer["alphas_cumprod"]


# ---- in ---------------------------------------------------------------------------------------


@with_diffusers
@pytest.mark.parametrize("name", NAMES)
def test_the_network_says_what_it_said_there(folders, name):
    network, diffusion, _ = from_diffusers(folders / name)
    inputs, expected, alphas_cumprod = answer_of(folders / name)
    found = compiled(network)(inputs)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(diffusion.alphas_cumprod, alphas_cumprod, atol=1e-6)


@with_diffusers
def test_the_layout_and_the_names_of_older_folders(folders):
    old, now = (from_diffusers(folders / name) for name in ("old", "cifar10"))
    for found, expected in zip(old.network.get_weights(), now.network.get_weights()):
        np.testing.assert_array_equal(found, expected)
    assert old.network.count_params() == now.network.count_params()
    assert old.diffusion.get_config() == now.diffusion.get_config()


@with_diffusers
def test_the_process_is_what_the_scheduler_says(folders):
    _, diffusion, sampling = from_diffusers(folders / "cifar10")
    assert (diffusion.variance, diffusion.prediction) == ("beta", "noise")
    assert sampling == {"clip_denoised": True, "spacing": "leading"}
    _, diffusion, sampling = from_diffusers(folders / "odd")
    assert (diffusion.variance, diffusion.prediction) == ("posterior", "velocity")
    assert diffusion.zero_terminal_snr and diffusion.timesteps == 1000
    assert sampling == {"clip_denoised": False, "spacing": "trailing"}
    _, diffusion, _ = from_diffusers(folders / "train_unconditional")
    assert (diffusion.schedule, diffusion.timesteps) == ("cosine", 500)


@with_diffusers
def test_it_is_a_model_like_any_other(folders, tmp_path):
    network, diffusion, sampling = from_diffusers(folders / "odd", image_size=16)
    model = DiffusionModel(network, diffusion)
    assert model.num_classes == 4  # the fifth embedding is that of no label
    images = model.generate(labels=[0, 3], guidance_scale=2.0, steps=3, seed=0, **sampling)
    assert images.shape == (2, 16, 16, 1)
    model.save(tmp_path / "odd.keras")
    loaded = keras.saving.load_model(tmp_path / "odd.keras")
    again = loaded.generate(labels=[0, 3], guidance_scale=2.0, steps=3, seed=0, **sampling)
    np.testing.assert_allclose(again, images, atol=1e-5)

    model.save_to_preset(tmp_path / "preset", dtype="float32")
    preset = DiffusionModel.from_preset(tmp_path / "preset")
    again = preset.generate(labels=[0, 3], guidance_scale=2.0, steps=3, seed=0, **sampling)
    np.testing.assert_allclose(again, images, atol=1e-5)
    before = model.network.get_weights()
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(np.zeros((4, 16, 16, 1), "uint8"), np.int32([0, 1, 2, 3]), verbose=0)
    assert not np.array_equal(model.network.get_weights()[0], before[0])


# ---- there and back ---------------------------------------------------------------------------


@with_diffusers
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_nothing_has_changed(folders, tmp_path, name):
    network, diffusion, _ = from_diffusers(folders / name)
    written = to_diffusers(DiffusionModel(network, diffusion), tmp_path / name)
    before, after = (load_file(root / "unet" / WEIGHTS) for root in (folders / name, written))
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    configs = [
        json.loads((root / "unet" / "config.json").read_text())
        for root in (folders / name, written)
    ]
    for config in configs:
        config.pop("_diffusers_version", None)
    assert configs[0] == configs[1]
    schedulers = [
        json.loads((root / "scheduler" / "scheduler_config.json").read_text())
        for root in (folders / name, written)
    ]
    clip = {"clip_sample", "timestep_spacing"}  # options of sampling, not of the process
    for key in schedulers[1].keys() - clip:
        assert schedulers[0][key] == schedulers[1][key], key


@pytest.mark.parametrize(
    "diffusion",
    [
        GaussianDiffusion(100, "cosine", prediction="start", variance="beta"),
        GaussianDiffusion(50, beta_start=1e-3, beta_end=0.3),
        GaussianDiffusion(betas=np.linspace(0.01, 0.5, 30), prediction="velocity"),
        GaussianDiffusion(100, prediction="velocity", zero_terminal_snr=True),
    ],
    ids=["cosine", "linear", "betas", "zero SNR"],
)
def test_every_process_comes_back(tmp_path, diffusion):
    network = build_unet(8, 1, (8, 16), (False, False), 1, norm_groups=4)
    to_diffusers(DiffusionModel(network, diffusion), tmp_path)
    _, back, _ = from_diffusers(tmp_path)
    assert back.get_config() == diffusion.get_config()
    np.testing.assert_array_equal(back.betas, diffusion.betas)


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 1, "has_attention": (True, False)},
        {"head_dim": 4, "num_classes": 3, "downsample_padding": "both"},
        {"num_heads": 2, "cosine_first": True, "freq_shift": 0, "dropout": 0.2},
    ],
    ids=str,
)
def test_every_network_comes_back(tmp_path, options):
    options = {"has_attention": (False, False), "num_res_blocks": 1, "norm_groups": 4} | options
    network = random_weights(build_unet((8, 12), 1, (8, 16), **options))
    model = DiffusionModel(network, GaussianDiffusion(10, "cosine"))
    back, _, _ = from_diffusers(to_diffusers(model, tmp_path))
    x_t = np.random.default_rng(0).standard_normal((2, 8, 12, 1)).astype("float32")
    inputs = [x_t, np.int32([0, 9]), np.int32([1, 3])][: len(network.inputs)]
    np.testing.assert_array_equal(compiled(back)(inputs), compiled(network)(inputs))


# ---- out: their pipelines run ours --------------------------------------------------------------


@with_diffusers
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="diffusers runs on torch")
@pytest.mark.parametrize(
    "sampler, eta, steps", [("ddpm", 0.0, 40), ("ddim", 0.0, 10), ("ddim", 0.7, 10)]
)
def test_their_pipelines_give_our_images(tmp_path, sampler, eta, steps):
    import diffusers
    import torch

    size, batch = 16, 2
    network = random_weights(build_unet(size, 3, (8, 16), (False, True), 1, norm_groups=4))
    model = DiffusionModel(network, GaussianDiffusion(40, beta_end=0.5))
    folder = to_diffusers(model, tmp_path)

    draws = np.random.default_rng(0).standard_normal((steps + 1, batch, size, size, 3))
    draws = draws.astype("float32")
    with mock.patch(
        "keras_ddpm.samplers.loop.step_noise",
        lambda seeds, i, shape: ops.take(ops.convert_to_tensor(draws), i + 1, axis=0),
    ):
        options = {"sampler": sampler, "eta": eta, "steps": steps, "spacing": "leading"}
        ours = model.generate(noise=draws[0], **options)

    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    call = {"batch_size": batch, "num_inference_steps": steps, "output_type": "np"}
    if sampler == "ddim":
        # It takes the image before the first step for the clean one, as ours always does.
        scheduler = diffusers.DDIMScheduler.from_config(
            pipeline.scheduler.config, set_alpha_to_one=True
        )
        pipeline = diffusers.DDIMPipeline(pipeline.unet, scheduler)
        call |= {"eta": eta, "use_clipped_model_output": True}
    pipeline.set_progress_bar_config(disable=True)
    noise = iter(torch.tensor(draws.transpose(0, 1, 4, 2, 3).copy()))
    patches = [
        mock.patch(f"diffusers.{module}.randn_tensor", lambda *_, **__: next(noise))
        for module in (
            "pipelines.ddpm.pipeline_ddpm",
            "pipelines.ddim.pipeline_ddim",
            "schedulers.scheduling_ddpm",
            "schedulers.scheduling_ddim",
        )
    ]
    for patch in patches:
        patch.start()
    theirs = pipeline(**call).images
    for patch in patches:
        patch.stop()
    np.testing.assert_allclose(theirs, ours / 2 + 0.5, atol=1e-3)
    assert ours.std() > 0.1


@with_diffusers
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="diffusers runs on torch")
def test_their_network_takes_our_labels(tmp_path):
    import diffusers
    import torch

    options = {"norm_groups": 4, "num_classes": 3, "head_dim": 4}
    network = random_weights(build_unet(8, 1, (8, 16), (False, True), 1, **options))
    folder = to_diffusers(DiffusionModel(network, GaussianDiffusion(10, "cosine")), tmp_path)
    x_t = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")
    t, labels = np.int32([0, 3, 6, 9]), np.int32([0, 1, 2, 3])  # the last means "no label"
    theirs = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        found = theirs(
            torch.tensor(x_t.transpose(0, 3, 1, 2)), torch.tensor(t), torch.tensor(labels)
        ).sample
    expected = compiled(network)([x_t, t, labels])
    assert np.abs(found.numpy().transpose(0, 2, 3, 1) - expected).max() < 1e-5 * expected.max()


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    network = build_unet(8, 1, (8, 16), (False, False), 1, norm_groups=4)
    model = DiffusionModel(network, GaussianDiffusion(10, "cosine"))
    return to_diffusers(model, tmp_path_factory.mktemp("written"))


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "mine"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


UNET = {
    "center_input_sample": True,
    "time_embedding_type": "fourier",
    "time_embedding_dim": 16,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_scale_factor": 2,
    "add_attention": False,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 4,
    "class_embed_type": "timestep",
    "act_fn": "gelu",
    "downsample_padding": 2,
    "num_class_embeds": 1,
    "encoder_hid_dim": 12,
}


@pytest.mark.parametrize("key", UNET)
def test_a_setting_of_another_network_is_named(folder, key):
    edit(folder / "unet" / "config.json", **{key: UNET[key]})
    with pytest.raises(ValueError, match=f"{key}={UNET[key]!r} "):
        from_diffusers(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"out_channels": 2}, "in_channels=1 and out_channels=2 must be equal"),
        ({"sample_size": None}, "sample_size is missing: give image_size"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "'SkipDownBlock2D' is not supp"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "must mirror each other"),
        ({"_class_name": "UNet2DConditionModel"}, "is of a UNet2DConditionModel, not of a UNet2DM"),
        ({"block_out_channels": [8, 24]}, r"has shape \(.*\), but the config says \("),
        ({"layers_per_block": 2}, "tensors are missing, such as 'down_blocks.0.resnets.1"),
        ({"num_class_embeds": 3}, "1 tensors are missing, such as 'class_embedding.weight'"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(folder, changes, message):
    edit(folder / "unet" / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        from_diffusers(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"variance_type": "learned_range"},
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "flow"},
        {"timestep_spacing": "karras"},
        {"steps_offset": 1},
        {"clip_sample_range": 2.0},
    ],
    ids=str,
)
def test_another_process_is_named(folder, changes):
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    [(key, value)] = changes.items()
    with pytest.raises(ValueError, match=f"{key}={value!r} is not supported, only"):
        from_diffusers(folder)


def test_the_usual_size_of_the_time_embedding_may_be_spelt_out(folder):
    expected = from_diffusers(folder).network.get_weights()
    edit(folder / "unet" / "config.json", time_embedding_dim=4 * 8)
    for found, weight in zip(from_diffusers(folder).network.get_weights(), expected):
        np.testing.assert_array_equal(found, weight)


def test_thresholding_is_dynamic_clipping(folder):
    edit(folder / "scheduler" / "scheduler_config.json", thresholding=True)
    assert from_diffusers(folder).sampling["clip_denoised"] == 0.995


def test_unknown_tensors(folder):
    path = folder / "unet" / WEIGHTS
    save_file(load_file(path) | {"extra.weight": np.zeros(2, "float32")}, path)
    with pytest.raises(ValueError, match="1 tensors are unknown, such as 'extra.weight'"):
        from_diffusers(folder)


def test_another_pipeline(folder):
    edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="is of a StableDiffusionPipeline, not of DDPMPipeline or"):
        from_diffusers(folder)


def test_a_pickle_is_refused_with_a_way_out(folder):
    path = folder / "unet" / WEIGHTS
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match="is a pickle, .*Convert it .*save_pretrained"):
        from_diffusers(folder)
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*safetensors"):
        from_diffusers(folder)


def test_no_folder_and_damaged_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder '.*nowhere'"):
        from_diffusers(tmp_path / "nowhere")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*scheduler_config.json"):
        from_diffusers(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        from_diffusers(folder)


def test_a_truncated_file(folder):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="safetensors is damaged"):
        from_diffusers(folder)


def test_what_cannot_be_written(tmp_path):
    diffusion = GaussianDiffusion(10, "cosine")
    options = {"norm_groups": 4, "num_res_blocks": 1}
    heads = build_unet(8, 1, (8, 16), (True, True), num_heads=2, **options)
    with pytest.raises(ValueError, match=r"heads of different sizes, \[4, 8\] channels"):
        to_diffusers(DiffusionModel(heads, diffusion), tmp_path / "a")
    with pytest.raises(ValueError, match="is not a network that `build_unet` made"):
        to_diffusers(DiffusionModel(tiny_network(), diffusion), tmp_path / "a")
    assert not (tmp_path / "a").exists()  # refused before anything is written
    (tmp_path / "file").write_text("")
    fine = DiffusionModel(build_unet(8, 1, (8, 16), (True, True), **options), diffusion)
    with pytest.raises(OSError):
        to_diffusers(fine, tmp_path / "file")


def test_what_is_written_is_the_averaged_network(tmp_path):
    network = build_unet(8, 1, (8, 16), (False, False), 1, norm_groups=4)
    model = DiffusionModel(network, GaussianDiffusion(10, "cosine"))
    random_weights(model.network, seed=1)
    random_weights(model.ema_network, seed=2)
    back = from_diffusers(to_diffusers(model, tmp_path)).network
    for found, expected in zip(back.get_weights(), model.ema_network.get_weights()):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(to_numpy(back.weights[0]), to_numpy(model.network.weights[0]))
