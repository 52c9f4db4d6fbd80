"""A run of time_to_quality.py with this package: `quality_ours.py IMAGES OPTIONS`."""

import json
import math
import sys
import time

import keras
import numpy as np

from keras_ddpm import DiffusionModel, FusedAdam, GaussianDiffusion, ImageDataset, UNet
from keras_ddpm.pixels import to_uint8
from keras_ddpm_cli.common import tune_xla
from keras_ddpm_cli.config import parse_config


class Deadline(keras.callbacks.Callback):
    """Stops after so many seconds of computing, counted from the end of the first step, which
    compiles. Until then the learning rate rises and falls as in `keras-ddpm train`.
    """

    def __init__(self, seconds, learning_rate, warmup_steps):
        super().__init__()
        self.seconds, self.learning_rate, self.warmup_steps = seconds, learning_rate, warmup_steps
        self.steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        share = min(1, (time.process_time() - self.begin) / self.seconds) if self.steps else 0
        warm = min(1, (self.steps + 1) / max(1, self.warmup_steps))
        rate = self.learning_rate * warm * (1 + math.cos(math.pi * share)) / 2
        self.model.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == 1:
            self.begin = time.process_time()
        elif time.process_time() - self.begin >= self.seconds:
            raise TimeoutError


def main(path, config, minutes, threads, seed, count, samples, **_):
    tune_xla()
    keras.utils.set_random_seed(seed)
    config = parse_config(["--config", config])
    training, images = config.training, np.load(path)["images"]
    network = UNet(images.shape[1:3], images.shape[3], **config.network.as_dict())
    diffusion = GaussianDiffusion(**config.diffusion.as_dict())
    names = ("ema_decay", "min_snr_gamma", "timestep_distribution")
    options = {name: training[name] for name in names}
    model = DiffusionModel(network, diffusion, seed=seed, **options)
    model.compile(FusedAdam(training.learning_rate, global_clipnorm=training.global_clipnorm))
    options = {"batch_size": training.batch_size, "flip": config.data.flip, "seed": seed}
    deadline = Deadline(60 * minutes * threads, training.learning_rate, training.warmup_steps)
    try:
        model.fit(ImageDataset(images, **options), epochs=10**6, verbose=0, callbacks=[deadline])
    except TimeoutError:
        pass
    begin = time.perf_counter()
    drawn = model.generate(count, sampler="dpm_solver++", eta=1.0, steps=20, seed=seed)
    facts = {
        "parameters": network.count_params(),
        "steps": deadline.steps,
        "images_per_second": deadline.steps * training.batch_size / (60 * minutes),
        "sampling_seconds": time.perf_counter() - begin,
    }
    np.savez(samples, images=to_uint8(drawn))
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
