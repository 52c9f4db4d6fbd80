"""What `test_devices.py` runs in processes of their own, for a process is given its devices once.

    python many_devices.py simulated FOLDER     one CPU as four devices
    python many_devices.py process FOLDER       one of two processes, for JAX

They write arrays and messages to FOLDER; the test judges them.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from conftest import states, tiny_network, to_numpy
from keras import ops

from keras_ddpm import DiffusionModel, GaussianDiffusion
from keras_ddpm.callbacks import Checkpoint
from keras_ddpm.checkpoints import CHECKPOINT_NAME
from keras_ddpm.data import ImageDataset
from keras_ddpm.devices import process, use_devices
from keras_ddpm.memory import batch_size_advice

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf

SIMULATED = 4
FLOWERS = Path(__file__).parent.parent / "examples" / "flowers.py"
COUNT, BATCH = 48, 8
# The first pixel tells which image it is.
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1), "uint8")
IMAGES[:, 0, 0, 0] = np.arange(COUNT)
LABELS = np.arange(COUNT, dtype="int32") % 3
NOISE = np.random.default_rng(1).standard_normal(IMAGES.shape).astype("float32")
TIMESTEPS = np.random.default_rng(2).integers(0, 50, COUNT).astype("int32")


def make_model(optimizer, dropout=0.0, **compile_options):
    keras.utils.set_random_seed(0)
    network = tiny_network(num_classes=3, dropout=dropout)
    model = DiffusionModel(network, GaussianDiffusion(50, "cosine"), ema_decay=0.5, seed=0)
    model.compile(optimizer, **compile_options)
    return model


def fix_noise(model):
    """Timesteps and noise that belong to the image, wherever it is trained on."""
    prepare_batch = model.prepare_batch

    def prepare_with_fixed_noise(data, validation=False):
        batch = prepare_batch(data, validation)
        number = ops.cast(ops.round((batch["x_start"][:, 0, 0, 0] + 1) * 127.5), "int32")
        noise = {"t": ops.take(TIMESTEPS, number), "noise": ops.take(NOISE, number, axis=0)}
        return {**batch, **noise, "label": ops.take(LABELS, number)}

    model.prepare_batch = prepare_with_fixed_noise
    return model


class Record(keras.callbacks.Callback):
    """Every number that training changes, after each batch."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        values = {**states(self.model), "data_mean": to_numpy(self.model.data_mean)}
        self.rows.append({k: v for k, v in values.items() if not k.startswith("seeds")})

    def arrays(self):
        return {k: np.stack([row[k] for row in self.rows]) for k in self.rows[0]}


def train(optimizer, data=None):
    """Six steps with fixed noise: the model, all states after each, and the loss."""
    record = Record()
    data = data or ImageDataset(IMAGES, LABELS, BATCH, flip=False, part=process())
    model = fix_noise(make_model(optimizer))
    history = model.fit(data, verbose=0, callbacks=[record]).history
    return model, {**record.arrays(), "loss": np.array(history["loss"])}


def train_with_own_noise(folder, initial_epoch=0):
    """Two epochs of 36 batches, or what a checkpoint leaves to do of them."""
    images, labels = np.tile(IMAGES, (6, 1, 1, 1)), np.tile(LABELS, 6)
    data = ImageDataset(images, labels, BATCH)
    model = make_model(keras.optimizers.Adam(1e-2), dropout=0.2)
    if initial_epoch:
        model = keras.saving.load_model(folder / CHECKPOINT_NAME.format(initial_epoch))
    callbacks = [data.epoch_callback(), Checkpoint(folder)]
    options = {"initial_epoch": initial_epoch, "callbacks": callbacks, "verbose": 0}
    return model, model.fit(data, epochs=2, **options).history["loss"]


def copies_of(variable):
    """The variable as each device holds it."""
    if BACKEND == "jax":
        return [np.asarray(shard.data) for shard in variable.value.addressable_shards]
    return [copy.numpy() for copy in getattr(variable.value, "values", [variable.value])]


def sample(model):
    """Seven images in batches of four, and how many of a batch each device had."""
    parts, denoise = set(), model.sampling_loop.denoiser

    def watched(x_t, *inputs):
        if BACKEND == "jax":
            import jax

            jax.debug.inspect_array_sharding(
                x_t, callback=lambda sharding: parts.add(sharding.shard_shape(x_t.shape)[0])
            )
        else:
            parts.add(x_t.shape[0])
        return denoise(x_t, *inputs)

    model.sampling_loop.denoiser = watched
    images, trajectory = model.generate(
        labels=np.arange(7) % 3,
        guidance_scale=2.0,
        sampler="ddpm",
        steps=4,
        seed=0,
        batch_size=4,
        return_trajectory=2,
    )
    return {"images": images, "frames": trajectory.x_start, "parts": np.array(sorted(parts))}


def draws_of_replicas():
    """What each replica draws for its two images: noise, and the mask of a Dropout layer."""
    model = make_model("sgd", dropout=0.2)
    (dropout,) = (layer for layer in model.network.layers if "dropout" in layer.name)

    @tf.function
    def draw():
        _, noise, _ = model.draw((2, 8, 8, 1))
        return noise, dropout(ops.ones((2, 8, 8, 8)), training=True)

    strategy = model.distribute_strategy
    parts = [strategy.experimental_local_results(values) for values in strategy.run(draw)]
    return {"noise": np.concatenate(parts[0]), "masks": np.concatenate(parts[1])}


def message_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ValueError, FloatingPointError) as error:
        return str(error)
    return "no error"


def simulated(folder):
    if BACKEND == "tensorflow":  # JAX is told by XLA_FLAGS
        cpu, part = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration
        tf.config.set_logical_device_configuration(cpu, [part()] * SIMULATED)
    arrays, messages = {}, {"too many": message_of(use_devices, SIMULATED + 1)}

    def keep(name, values):
        arrays.update({f"{name}/{key}": value for key, value in values.items()})

    for devices in (1, 2, SIMULATED):
        assert use_devices(devices) == devices
        model, found = train(keras.optimizers.SGD(0.1))
        keep(f"sgd_{devices}", {**found, **sample(model)})
        keep(f"copies_{devices}", dict(enumerate(np.stack(copies_of(v)) for v in model.weights)))

        model, losses = train_with_own_noise(folder / f"checkpoints_{devices}")
        keep(f"whole_{devices}", {**states(model), "loss": np.array(losses)})
    model, _ = train_with_own_noise(folder / f"checkpoints_{devices}", initial_epoch=1)
    keep("resumed", states(model))

    # Four devices from here on. One image has a wrong label, which only one device sees.
    wrong = np.where(np.arange(COUNT) == COUNT - 1, 3, LABELS)
    keep("before_label", states(model))
    messages["label"] = message_of(model.fit, ImageDataset(IMAGES, wrong, COUNT), verbose=0)
    keep("after_label", states(model))
    weights = model.network.get_weights()
    model.network.set_weights([weights[0] * np.nan, *weights[1:]])
    keep("before_nan", states(model))
    messages["memory"] = batch_size_advice(model, COUNT, "no room")
    messages["nan"] = message_of(model.fit, ImageDataset(IMAGES, LABELS, COUNT), verbose=0)
    keep("after_nan", states(model))
    messages["batch"] = message_of(model.fit, ImageDataset(IMAGES, LABELS, batch_size=6))
    messages["rest"] = message_of(model.fit, IMAGES[:10], LABELS[:10], batch_size=8)
    messages["validation"] = message_of(
        model.fit, IMAGES, LABELS, batch_size=8, validation_data=(IMAGES[:3], LABELS[:3])
    )
    if BACKEND == "tensorflow":
        only_tensorflow(folder, keep, messages)
    else:
        use_devices(1)
        flowers(folder / "one")  # to compare two processes with
    np.savez(folder / "simulated.npz", **arrays)
    (folder / "messages.json").write_text(json.dumps(messages))


def only_tensorflow(folder, keep, messages):
    """What JAX, with one program for all devices, cannot get wrong."""
    keep("replicas", draws_of_replicas())
    # Batches of 3, 3 and 2: two devices get 2 and 1, 2 and 1, 1 and 1.
    uneven = tf.data.Dataset.from_tensor_slices((IMAGES[:8], LABELS[:8])).batch(3)
    for devices in (1, 2):
        use_devices(devices)
        adam = keras.optimizers.Adam(
            0.01, epsilon=0.01, clipnorm=0.01, gradient_accumulation_steps=2
        )
        keep(f"adam_{devices}", train(adam)[1])
        keep(f"uneven_{devices}", train(keras.optimizers.SGD(0.1), uneven)[1])
        keras.config.set_dtype_policy("mixed_float16")
        keep(f"float16_{devices}", train(keras.optimizers.SGD(0.1))[1])
        keras.config.set_dtype_policy("float32")
    use_devices(1)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        keep("sgd_alone", train(keras.optimizers.SGD(0.1))[1])
    use_devices(2)
    messages["jit_compile"] = message_of(make_model, "sgd", jit_compile=True)
    messages["steps_per_execution"] = message_of(make_model, "sgd", steps_per_execution=2)
    messages["loss"] = message_of(make_model, "sgd", loss=lambda y, y_pred: ops.mean(y - y_pred))
    held_out = ["--data.validation_fraction", "0.15"]  # three, less than a batch, and not even
    flowers(folder / "run", "--training.devices", "2", "--training.epochs", "1", *held_out)


def flowers(run, *args):
    sys.argv = [
        str(FLOWERS),
        "--config",
        str(run.parent / "flowers.yaml"),
        "--run",
        str(run),
        *args,
    ]
    runpy.run_path(str(FLOWERS), run_name="__main__")


def process_of_two(folder):
    """Trains together with the other process; then runs flowers.py, and the second one dies."""
    address = os.environ.pop("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    assert "JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID" in message_of(use_devices)
    os.environ["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = address
    use_devices("all")
    number, _ = process()
    if not (folder / "processes.npz").exists():
        model, found = train(keras.optimizers.SGD(0.1))
        found.update(sample(model))
        if number == 0:
            np.savez(folder / "processes.npz", **found)
        serve = ImageDataset.__getitem__

        def serve_until_killed(dataset, index):
            if number == 1 and dataset.epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return serve(dataset, index)

        ImageDataset.__getitem__ = serve_until_killed
    flowers(folder / "run", "--training.devices", "all")


if __name__ == "__main__":
    task = {"simulated": simulated, "process": process_of_two}[sys.argv[1]]
    task(Path(sys.argv[2]))
