"""Writes folders of random diffusers models, and what the models answer; needs PyTorch.

python tests/numerics/make_diffusers_folders.py FOLDER
"""

import inspect
import json
import shutil
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.numpy import load_file, save_file

MODELS = {
    # google/ddpm-cifar10-32 and its larger relatives, narrower and smaller
    "google": {
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "sample_size": 16,
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    # the defaults of diffusers; heads, classes, grey, no square
    "odd": {
        "sample_size": (8, 12),
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (16, 32, 48),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "dropout": 0.1,
        "num_class_embeds": 5,
    },
}
SCHEDULERS = {
    "google": {"variance_type": "fixed_large"},
    "odd": {
        "beta_schedule": "squaredcos_cap_v2",
        "num_train_timesteps": 500,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    },
}
BATCH = 3


def main(root):
    for seed, (name, options) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        network = UNet2DModel(**options).eval()
        for parameter in network.parameters():  # biases and norms are 0 and 1 at first
            parameter.data += 0.1 * torch.randn_like(parameter)
        pipeline = DDPMPipeline(network, DDPMScheduler(**SCHEDULERS[name]))
        pipeline.save_pretrained(root / name)

        rng = np.random.default_rng(seed)
        size = np.broadcast_to(options["sample_size"], 2)
        x_t = rng.standard_normal((BATCH, options.get("in_channels", 3), *size))
        inputs = {"x_t": x_t.astype("float32"), "t": np.array([0, 321, 499])}
        if "num_class_embeds" in options:
            inputs["label"] = rng.integers(0, options["num_class_embeds"], BATCH)
        with torch.no_grad():
            output = network(*map(torch.tensor, inputs.values())).sample.numpy()
        scale = {"alphas_cumprod": pipeline.scheduler.alphas_cumprod.numpy()}
        np.savez(root / name / "answer.npz", output=output, **inputs, **scale)
    for variant in (None, "fp16"):  # of the last model
        options = {"max_shard_size": "50KB", "variant": variant}
        pipeline.save_pretrained(root / f"several_{variant}", **options)
    make_old(root / "google", root / "old")
    kinds = "UNet2DModel DDPMScheduler DDPMParallelScheduler DDIMScheduler DDIMParallelScheduler"
    for kind in kinds.split():
        parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.name != "self"}
        (root / f"{kind}.json").write_text(json.dumps(defaults))


def make_old(source, target):
    """The flat layout, and attention's names, of the older repositories of google/ddpm-*."""
    target.mkdir()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(source / "unet" / "diffusion_pytorch_model.safetensors")
    for now, before in old.items():
        tensors = {name.replace(f".{now}.", f".{before}."): x for name, x in tensors.items()}
    save_file(tensors, target / "diffusion_pytorch_model.safetensors")
    shutil.copy(source / "scheduler" / "scheduler_config.json", target)
    config = json.loads((source / "unet" / "config.json").read_text())
    later = "add_attention attn_norm_num_groups class_embed_type num_class_embeds dropout "
    later += "resnet_time_scale_shift downsample_type upsample_type"
    for key in later.split():  # they were written before diffusers had these
        config.pop(key, None)
    (target / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
