"""Cases of speed.py for Hugging Face diffusers, in PyTorch: what a user would write."""

import time

import numpy as np
from speed_worker import megabytes

LEARNING_RATE = 2e-4
EMA_DECAY = 0.999


def make_network(network):
    """The `UNet2DModel` with the widths, blocks, groups and attention of `build_unet`'s.

    Returns it with the device it is on: a GPU if there is one.
    """
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    attends = network["has_attention"]
    down = ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    up = ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = UNet2DModel(
        sample_size=network["image_size"],
        block_out_channels=network["widths"],
        layers_per_block=network["num_res_blocks"],
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=None,
        norm_num_groups=network.get("norm_groups", 8),
        downsample_padding=0,
    )
    return model.to(device), device


def training(network, policy, batch_size, steps):
    """Seconds of a training step: the loop of their tutorial, with Adam and `EMAModel`."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    facts = {"imported_megabytes": megabytes()}
    begin = time.perf_counter()
    model, device = make_network(network)
    scheduler, average = DDPMScheduler(1000), EMAModel(model.parameters(), decay=EMA_DECAY)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    size = network["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (steps * batch_size, 3, size, size), "uint8")

    def step(batch):
        x_start = torch.from_numpy(batch).to(device).float() / 127.5 - 1
        noise = torch.randn_like(x_start)
        t = torch.randint(0, 1000, (len(batch),), device=device)
        x_t = scheduler.add_noise(x_start, noise, t)
        with torch.autocast(device, torch.bfloat16, enabled=policy == "mixed_bfloat16"):
            output = model(x_t, t).sample
        loss = F.mse_loss(output.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        return loss.item()

    step(images[:batch_size])
    facts |= {"first_step": time.perf_counter() - begin}
    yield {**facts, "parameters": sum(p.numel() for p in model.parameters())}
    while True:
        begin = time.perf_counter()
        for i in range(steps):
            step(images[i * batch_size : (i + 1) * batch_size])
        yield (time.perf_counter() - begin) / steps


def sampling(network, policy, num_images, sampler, steps):
    """Seconds of a pipeline."""
    import torch
    from diffusers import (
        DDIMPipeline,
        DDIMScheduler,
        DDPMPipeline,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
    )

    pipelines = {
        "ddpm": (DDPMPipeline, DDPMScheduler),
        "ddim": (DDIMPipeline, DDIMScheduler),
        "dpm_solver++": (DDPMPipeline, DPMSolverMultistepScheduler),
    }
    pipeline, scheduler = pipelines[sampler]
    network, device = make_network(network)
    draw = pipeline(network, scheduler(1000))
    draw.set_progress_bar_config(disable=True)

    def run(seed):
        begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=policy == "mixed_bfloat16"):
            draw(
                batch_size=num_images,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            )
        return time.perf_counter() - begin

    first = run(0)
    yield {"first_call": first, "parameters": sum(p.numel() for p in network.parameters())}
    while True:
        yield run(1)
