"""What `test_devices.py` runs in processes of their own, for a process is given its devices once.

    python many_devices.py simulated FOLDER     one CPU as four devices
    python many_devices.py process FOLDER       one of two processes

They write arrays and messages to FOLDER; the test judges them.
"""

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

import jax
import keras
import numpy as np
from tools import TINY_RUN, command, make_model, run_command, states, tiny_network, to_options

from keras_ddpm import Checkpoint, ImageDataset
from keras_ddpm.devices import process, use_devices

SIMULATED = 4
COUNT, BATCH = 48, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1), "uint8")
LABELS = np.arange(COUNT, dtype="int32") % 3


def new_model():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    return make_model(num_classes=3, optimizer=optimizer, dropout=0.2, ema_decay=0.5)


def fit(model, folder, **kwargs):
    """Two epochs with noise and dropout, or what is left of them; the states and the losses."""
    data = ImageDataset(IMAGES, LABELS, BATCH, part=process(), epoch=kwargs.get("initial_epoch", 0))
    held_out = ImageDataset(IMAGES[:16], LABELS[:16], BATCH, part=process(), shuffle=False)
    options = {"epochs": 2, "validation_data": held_out, "callbacks": [Checkpoint(folder)]}
    losses = model.fit(data, verbose=0, **options, **kwargs).history
    return {**states(model), **{name: np.array(values) for name, values in losses.items()}}


def sample(model):
    """Seven images in batches of four, and how many of a batch each device had."""
    parts, denoise = set(), model.sampling_loop.denoiser

    def watched(x_t, *inputs):
        jax.debug.inspect_array_sharding(
            x_t, callback=lambda sharding: parts.add(sharding.shard_shape(x_t.shape)[0])
        )
        return denoise(x_t, *inputs)

    model.sampling_loop.denoiser = watched
    options = {"guidance_scale": 2.0, "sampler": "ddpm", "steps": 4, "seed": 0, "batch_size": 4}
    images, way = model.generate(labels=np.arange(7) % 3, return_trajectory=2, **options)
    return {"images": images, "frames": way.x_start, "parts": np.array(sorted(parts))}


def message_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ValueError, FloatingPointError) as error:
        return str(error)
    return "no error"


def simulated(folder):
    arrays, messages = {}, {"too many": message_of(use_devices, SIMULATED + 1)}

    def keep(name, values):
        arrays.update({f"{name}/{key}": value for key, value in values.items()})

    for devices in (1, SIMULATED):
        assert use_devices(devices) == devices
        model = new_model()
        keep(f"devices_{devices}", {**fit(model, folder / str(devices)), **sample(model)})
    resumed = keras.saving.load_model(folder / str(devices) / "epoch_0001.keras")
    keep("resumed", fit(resumed, folder / "resumed", initial_epoch=1))

    # One image has a wrong label, which only one device sees.
    wrong = np.where(np.arange(COUNT) == COUNT - 1, 3, LABELS)
    keep("before", states(model))
    last = ImageDataset(IMAGES[-BATCH:], wrong[-BATCH:], BATCH)
    messages["label"] = message_of(model.fit, last, verbose=0)
    keep("after", states(model))
    messages["batch"] = message_of(model.fit, ImageDataset(IMAGES, LABELS, batch_size=6))
    held_out = {"validation_data": (IMAGES[:3], LABELS[:3])}
    messages["validation"] = message_of(model.fit, IMAGES, LABELS, batch_size=8, **held_out)
    keep("messages", messages)
    np.savez(folder / "simulated.npz", **arrays)


def run(folder, epochs, seed=0):
    """The command that trains, with a batch that two devices share, and a network of moments."""
    settings = {"run": str(folder), "training.epochs": epochs, "training.devices": "all"}
    settings |= {"data.validation_fraction": 0.25, "training.batch_size": 4, "training.seed": seed}
    with mock.patch("keras_ddpm_cli.train.UNet", lambda size, channels, **_: tiny_network(size, 3)):
        run_command(command("train", config=None), *to_options({**TINY_RUN, **settings}))


def process_of_two(folder):
    with (
        contextlib.redirect_stderr(io.StringIO()) as printed,
        mock.patch("signal.raise_signal", sys.exit),  # a kill would end this test
        contextlib.suppress(SystemExit),
    ):
        use_devices("all")  # finds the other process
        for name in [name for name in os.environ if name.startswith("KERAS_DISTRIBUTION_")]:
            del os.environ[name]  # that was the only time
        number, _ = process()
        run(folder / "run", epochs=1, seed=number)
    message = printed.getvalue()

    run(folder / "run", epochs=1)
    run(folder / "run", epochs=2)
    model = new_model()
    found = {**fit(model, folder / "checkpoints"), **sample(model), "message": message}
    np.savez(folder / f"process_{number}.npz", **found)


if __name__ == "__main__":
    task = {"simulated": simulated, "process": process_of_two}[sys.argv[1]]
    task(Path(sys.argv[2]))
