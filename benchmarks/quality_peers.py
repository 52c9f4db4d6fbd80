"""A run of time_to_quality.py with another package: `quality_peers.py PACKAGE IMAGES OPTIONS`.

`diffusers` is the recipe of their train_unconditional.py: AdamW with a learning rate of 1e-4,
β₁ = 0.95 and weight decay 1e-6, 500 steps of warm-up, a linear schedule of 1000 steps, noise
prediction, and averages with a warm-up. Its samples are those of DDIM with η = 1 and clipping,
which were better than those of their DPM-Solver++ for networks trained so briefly.

`lucidrains` is the Trainer of denoising_diffusion_pytorch: Adam with a learning rate of 1e-4 and
β₂ = 0.99, velocity prediction, a sigmoid schedule of 1000 steps, averages with the decay 0.995
every ten steps, and DDIM. Images of 28 pixels get a border of 2, which is cut off again.

Both take batches of 16, clip gradients at the norm 1, and here let the learning rate fall to 0
along a cosine in the time they have.
"""

import json
import math
import sys
import time

import numpy as np
import torch

BATCH_SIZE, STEPS = 16, 25
# About as many parameters as the networks of the configurations, by the side of the images.
WIDTHS = {28: (16, 48, 48), 32: (32, 64, 96)}


class Diffusers:
    learning_rate, warmup = 1e-4, 500

    def __init__(self, images):
        import diffusers
        from diffusers.training_utils import EMAModel

        self.package, widths = diffusers, WIDTHS[images.shape[2]]
        self.network = diffusers.UNet2DModel(
            sample_size=images.shape[2],
            in_channels=images.shape[1],
            out_channels=images.shape[1],
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=["DownBlock2D"] * (len(widths) - 1) + ["AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (len(widths) - 1),
            attention_head_dim=None,
            norm_num_groups=8,
        )
        self.scheduler = diffusers.DDPMScheduler(1000)
        parameters = self.network.parameters()
        self.average = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, power=0.75)
        options = {"betas": (0.95, 0.999), "eps": 1e-8, "weight_decay": 1e-6}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), **options)

    def loss(self, images):
        noise = torch.randn_like(images)
        t = torch.randint(0, 1000, (len(images),))
        output = self.network(self.scheduler.add_noise(2 * images - 1, noise, t), t).sample
        return torch.nn.functional.mse_loss(output, noise)

    def update_average(self):
        self.average.step(self.network.parameters())

    def draw(self, count, seed):
        self.average.copy_to(self.network.parameters())
        pipeline = self.package.DDIMPipeline(self.network, self.package.DDIMScheduler(1000))
        pipeline.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": STEPS, "eta": 1.0, "output_type": "np"}
        generator = torch.Generator().manual_seed(seed)
        return pipeline(count, generator, **options).images.reshape(count, *self.shape)


class Lucidrains:
    learning_rate, warmup = 1e-4, 0

    def __init__(self, images):
        import denoising_diffusion_pytorch as package
        from ema_pytorch import EMA

        side = images.shape[2]
        self.border = 2 if side == 28 else 0
        size, width = side + 2 * self.border, {28: 16, 32: 24}[side]
        network = package.Unet(width, dim_mults=(1, 2, 4), channels=images.shape[1])
        self.network = package.GaussianDiffusion(network, image_size=size, sampling_timesteps=STEPS)
        self.average = EMA(self.network, beta=0.995, update_every=10)
        self.optimizer = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99))

    def loss(self, images):
        return self.network(torch.nn.functional.pad(images, (self.border,) * 4))

    def update_average(self):
        self.average.update()

    def draw(self, count, seed):
        torch.manual_seed(seed)
        images = self.average.ema_model.sample(count).numpy().transpose(0, 2, 3, 1)
        end = images.shape[1] - self.border
        return images[:, self.border : end, self.border : end]


def main(package, path, minutes, threads, seed, count, samples, learning_rate, **_):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = np.load(path)["images"]
    shape, images = images.shape[1:], images.transpose(0, 3, 1, 2)
    recipe = {"diffusers": Diffusers, "lucidrains": Lucidrains}[package](images)
    recipe.shape, peak = shape, learning_rate or recipe.learning_rate
    steps, seconds, begin = 0, 60 * minutes * threads, math.inf
    while time.process_time() - begin < seconds:
        share = max(0, (time.process_time() - begin) / seconds)
        rate = peak * min(1, (steps + 1) / max(1, recipe.warmup))
        for group in recipe.optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
        chosen = torch.from_numpy(images[rng.integers(0, len(images), BATCH_SIZE)])
        recipe.loss(chosen.float() / 255).backward()
        torch.nn.utils.clip_grad_norm_(recipe.network.parameters(), 1.0)
        recipe.optimizer.step()
        recipe.optimizer.zero_grad()
        recipe.update_average()
        steps += 1
        if steps == 1:
            begin = time.process_time()
    begin = time.perf_counter()
    sizes = [min(100, count - start) for start in range(0, count, 100)]
    drawn = np.concatenate([recipe.draw(size, seed + i) for i, size in enumerate(sizes)])
    facts = {
        "parameters": sum(weight.numel() for weight in recipe.network.parameters()),
        "steps": steps,
        "images_per_second": steps * BATCH_SIZE / (60 * minutes),
        "sampling_seconds": time.perf_counter() - begin,
    }
    np.savez(samples, images=(255 * drawn).round().clip(0, 255).astype("uint8"))
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:3], **json.loads(sys.argv[3]))
