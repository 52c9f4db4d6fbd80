"""Seconds of a training step of the keras.io network (63 M parameters, 64x64) on one backend.

    KERAS_BACKEND=jax python benchmarks/training_step.py path/to/photographs

The photographs are a folder, or the name of a data set, as `load_images` takes them. The network
and the diffusion are those of examples/configs/oxford_flowers102.yaml.
"""

import statistics
import time
from dataclasses import asdict
from pathlib import Path

import keras
from jsonargparse import auto_cli

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet
from keras_ddpm.command_line import parse_config
from keras_ddpm.data import load_images

CONFIG = Path(__file__).parents[1] / "examples" / "configs" / "oxford_flowers102.yaml"


def measure(images: str, batch_size: int = 8, steps: int = 10):
    """Prints the median of `steps` steps and the time to the first one.

    Args:
        images: a folder or the name of a data set.
        batch_size: images a step.
        steps: steps to measure.
    """
    config = parse_config(["--config", str(CONFIG)])
    data = load_images(images, image_size=config.data.image_size, num_images=batch_size * 4).images
    keras.utils.set_random_seed(0)
    begin = time.perf_counter()
    network = build_unet(config.data.image_size, **asdict(config.network))
    model = DiffusionModel(network, GaussianDiffusion(**asdict(config.diffusion)))
    model.compile(keras.optimizers.Adam(config.training.learning_rate))
    times, losses = [], []
    for step in range(steps + 1):
        start = batch_size * (step % 4)
        losses.append(float(model.train_on_batch(data[start : start + batch_size])))
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    print(
        f"{keras.backend.backend()}: {network.count_params():,} parameters, batch {batch_size}: "
        f"first step after {times[0]:.1f} s, then {statistics.median(times[1:]):.2f} s a step "
        f"({min(times[1:]):.2f} to {max(times[1:]):.2f}); loss {losses[0]:.3f} to {losses[-1]:.3f}"
    )


if __name__ == "__main__":
    auto_cli(measure)
