"""Models of diffusers compute the same here, and ours the same there."""

import json
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file
from tools import compiled, random_weights, run_python

from keras_ddpm import DiffusionModel, GaussianDiffusion, UNet
from keras_ddpm.diffusers import from_diffusers, scheduler, to_diffusers, unet

pytestmark = pytest.mark.needs("torch", "diffusers")
NAMES = ("google", "odd")
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")

with_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="diffusers runs on it")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random models, written by diffusers itself in another process."""
    root = tmp_path_factory.mktemp("diffusers")
    run_python(Path(__file__).with_name("make_diffusers_folders.py"), root)
    return root


@pytest.fixture(scope="module")
def models(folders):
    return {name: from_diffusers(folders / name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_network_says_what_it_said_there(folders, models, name):
    answer = np.load(folders / name / "answer.npz")
    inputs = [answer["x_t"].transpose(0, 2, 3, 1), answer["t"].astype("int32")]
    if "label" in answer:
        inputs.append(answer["label"].astype("int32"))
    expected = answer["output"].transpose(0, 2, 3, 1)
    found = compiled(models[name].network)(inputs)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    alphas_cumprod = models[name].diffusion.alphas_cumprod
    np.testing.assert_allclose(alphas_cumprod, answer["alphas_cumprod"], atol=1e-6)


@pytest.mark.once
def test_the_process_is_what_the_scheduler_says(models):
    _, diffusion, sampling = models["google"]
    assert (diffusion.variance, diffusion.prediction) == ("beta", "noise")
    assert sampling == {"clip_denoised": True, "spacing": "leading"}
    network, diffusion, sampling = models["odd"]
    assert (diffusion.variance, diffusion.prediction) == ("posterior", "velocity")
    assert (diffusion.schedule, diffusion.timesteps) == ("cosine", 500)
    assert diffusion.zero_terminal_snr
    assert DiffusionModel(network, diffusion).num_classes == 4  # the fifth is that of no label
    assert sampling == {"clip_denoised": False, "spacing": "trailing"}


@pytest.mark.once
def test_absent_keys_mean_what_they_mean_there(folders, models):
    network = unet.ONLY | unet.DEFAULTS | {unet.TIME_SIZE: None}
    for name, ours in {"UNet2DModel": network, **scheduler.SCHEDULERS}.items():
        assert json.loads((folders / f"{name}.json").read_text()) == ours, name
    old, now = from_diffusers(folders / "old"), models["google"]
    for found, expected in zip(old.network.get_weights(), now.network.get_weights()):
        np.testing.assert_array_equal(found, expected)
    assert old.network.get_config() == now.network.get_config()
    assert old.diffusion.get_config() == now.diffusion.get_config()


@pytest.mark.once
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_read(folders, models, variant):
    folder = folders / f"several_{variant}"
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    network = from_diffusers(folder).network
    for found, expected in zip(network.get_weights(), models["odd"].network.get_weights()):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_nothing_has_changed(folders, models, tmp_path, name):
    network, diffusion, _ = models[name]
    written = to_diffusers(DiffusionModel(network, diffusion), tmp_path / name)
    before, after = (load_file(root / WEIGHTS) for root in (folders / name, written))
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])

    def configs(path):
        return [json.loads((root / path).read_text()) for root in (folders / name, written)]

    theirs, ours = configs("unet/config.json")
    del theirs["_diffusers_version"]
    assert theirs == ours
    theirs, ours = configs("scheduler/scheduler_config.json")
    for key in ours.keys() - {"clip_sample", "timestep_spacing"}:  # they are options of sampling
        assert theirs[key] == ours[key], key


@with_torch
@pytest.mark.parametrize("kind", scheduler.SCHEDULERS)
def test_a_scheduler_without_one_of_its_keys_is_read_as_they_read_it(kind):
    import diffusers

    unusual = {
        "num_train_timesteps": 300,
        "beta_start": 0.001,
        "beta_end": 0.05,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    }
    if "variance_type" in scheduler.SCHEDULERS[kind]:
        unusual["variance_type"] = "fixed_large"
    config = json.loads(getattr(diffusers, kind)(**unusual).to_json_string())
    for key in config.keys() - {"_class_name"}:
        rest = {name: value for name, value in config.items() if name != key}
        if key == "prediction_type":  # noise is usual, for which the last beta must not be 1
            rest["rescale_betas_zero_snr"] = False
        theirs = getattr(diffusers, kind).from_config(rest)
        ours, sampling = scheduler.diffusion_from_config(rest)
        filled, same_sampling = scheduler.diffusion_from_config(dict(theirs.config))
        assert ours.get_config() == filled.get_config() and sampling == same_sampling, key
        np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6)


@with_torch
def test_a_network_without_one_of_its_keys_is_read_as_they_read_it():
    import diffusers

    unusual = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "downsample_padding": 0,
        "dropout": 0.1,
        "attention_head_dim": 16,
        "norm_num_groups": 16,
        "norm_eps": 1e-6,
        "num_class_embeds": 3,
    }
    assert unusual.keys() == unet.DEFAULTS.keys()
    pairs = [{"in_channels", "out_channels"}, {"down_block_types", "up_block_types"}]
    # Those of a pair must fit each other. The usual channels make a large network.
    single = unusual.keys() - {"block_out_channels"} - set.union(*pairs)
    for keys in (*pairs, *({key} for key in single)):
        rest = {key: value for key, value in unusual.items() if key not in keys}
        theirs = diffusers.UNet2DModel.from_config(rest)
        filled = json.loads(theirs.to_json_string())
        ours = unet.network_from_config(rest, image_size=8)
        again = unet.network_from_config(filled, image_size=8)
        assert ours.get_config() == again.get_config(), keys
        shapes = {
            name: unet.to_theirs(np.empty(x.shape), x).shape
            for name, x in unet.named_variables(ours).items()
        }
        assert shapes == {name: tuple(x.shape) for name, x in theirs.state_dict().items()}, keys


@with_torch
def test_their_pipeline_gives_our_images(tmp_path):
    import diffusers
    import torch

    network = random_weights(UNet(8, 3, (8, 16), (False, True), 1, norm_groups=4))
    model = DiffusionModel(network, GaussianDiffusion(20, beta_end=0.9))
    draws = np.random.default_rng(0).standard_normal((21, 2, 8, 8, 3), "float32")
    with mock.patch(
        "keras_ddpm.samplers.loop.step_noise",
        lambda seeds, i, shape: ops.take(ops.convert_to_tensor(draws), i + 1, axis=0),
    ):
        ours = model.generate(noise=draws[0], sampler="ddpm", steps=20)

    pipeline = diffusers.DDPMPipeline.from_pretrained(to_diffusers(model, tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    noise = iter(torch.tensor(draws.transpose(0, 1, 4, 2, 3).copy()))
    with ExitStack() as stack:
        for module in ("pipelines.ddpm.pipeline_ddpm", "schedulers.scheduling_ddpm"):
            name = f"diffusers.{module}.randn_tensor"
            stack.enter_context(mock.patch(name, lambda *_, **__: next(noise)))
        theirs = pipeline(batch_size=2, num_inference_steps=20, output_type="np").images
    np.testing.assert_allclose(theirs, ours / 2 + 0.5, atol=1e-3)
    assert ours.std() > 0.1


@with_torch
def test_their_network_takes_our_labels(tmp_path):
    import diffusers
    import torch

    options = {"norm_groups": 4, "num_classes": 3, "head_dim": 4}
    network = random_weights(UNet(8, 1, (8, 16), (False, True), 1, **options))
    folder = to_diffusers(DiffusionModel(network, GaussianDiffusion(10, "cosine")), tmp_path)
    x_t = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")
    t, labels = np.int32([0, 3, 6, 9]), np.int32([0, 1, 2, 3])  # the last means "no label"
    theirs = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    inputs = (torch.tensor(x) for x in (x_t.transpose(0, 3, 1, 2), t, labels))
    with torch.no_grad():
        found = theirs(*inputs).sample.numpy().transpose(0, 2, 3, 1)
    expected = compiled(network)([x_t, t, labels])
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
