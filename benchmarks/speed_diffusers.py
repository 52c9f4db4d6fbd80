"""Cases of speed.py for Hugging Face diffusers, in PyTorch: what a user would write."""

import time

import diffusers
import numpy as np
import torch
from diffusers.training_utils import EMAModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PIPELINES = {
    "ddpm": (diffusers.DDPMPipeline, diffusers.DDPMScheduler),
    "ddim": (diffusers.DDIMPipeline, diffusers.DDIMScheduler),
    "dpm_solver++": (diffusers.DDPMPipeline, diffusers.DPMSolverMultistepScheduler),
}


def make_network(network):
    """The `UNet2DModel` with the widths, blocks, groups and attention of our `UNet`."""
    torch.manual_seed(0)
    attends = network["has_attention"]
    return diffusers.UNet2DModel(
        sample_size=network["image_size"],
        block_out_channels=network["widths"],
        layers_per_block=network["num_res_blocks"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=None,
        norm_num_groups=8,
        downsample_padding=0,
    ).to(DEVICE)


def training(network, policy, batch_size, steps):
    """The seconds of a training step: the loop of their tutorial, with Adam and `EMAModel`."""
    begin = time.perf_counter()
    model = make_network(network)
    scheduler, average = diffusers.DDPMScheduler(1000), EMAModel(model.parameters(), decay=0.999)
    optimizer = torch.optim.Adam(model.parameters(), 2e-4)
    size = network["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (steps * batch_size, 3, size, size), "uint8")

    def step(batch):
        x_start = torch.from_numpy(batch).to(DEVICE).float() / 127.5 - 1
        noise = torch.randn_like(x_start)
        t = torch.randint(0, 1000, (len(batch),), device=DEVICE)
        x_t = scheduler.add_noise(x_start, noise, t)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=policy == "mixed_bfloat16"):
            output = model(x_t, t).sample
        loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        return loss.item()

    step(images[:batch_size])
    yield {"first": time.perf_counter() - begin}
    while True:
        begin = time.perf_counter()
        for i in range(steps):
            step(images[i * batch_size : (i + 1) * batch_size])
        yield (time.perf_counter() - begin) / steps


def sampling(network, num_images, sampler, steps):
    """The seconds of a pipeline."""
    pipeline, scheduler = PIPELINES[sampler]
    draw = pipeline(make_network(network), scheduler(1000))
    draw.set_progress_bar_config(disable=True)

    def run():
        begin = time.perf_counter()
        generator = torch.Generator().manual_seed(0)
        draw(num_images, generator, num_inference_steps=steps, output_type="np")
        return time.perf_counter() - begin

    yield {"first": run()}
    while True:
        yield run()
