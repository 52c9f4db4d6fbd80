"""Trains a diffusion model on flowers, or on any folder of images, and resumes after a kill.

    python examples/flowers.py                                # the embedded set, on a CPU
    python examples/flowers.py --config examples/configs/oxford_flowers102.yaml
    python examples/flowers.py --run runs/short --training.epochs 3

The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch. A run is a
folder: config.yaml, log.csv, loss.png, samples/, checkpoints/, samples.png and final.keras; with
--logging.tensorboard true also tensorboard/, for `tensorboard --logdir runs`.
Started again on the same folder, a run goes on from its latest checkpoint, to the same weights
as if nothing had happened. Several devices: --training.devices, and docs/devices.md.
"""

import sys
from pathlib import Path

from keras_ddpm.command_line import check_unchanged, flatten, parse_config, save_config
from keras_ddpm.files import make_writable, written_aside

EMBEDDED = Path(__file__).parent / "configs" / "embedded.yaml"


def main(default_config=EMBEDDED, description=__doc__):
    """Trains as the command line says, or goes on; returns the run's configuration."""
    config = parse_config(sys.argv[1:], default_config=default_config, description=description)
    try:
        run = prepare(config)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        devices = sys.modules.get("keras_ddpm.devices")  # missing if Keras cannot be imported
        (devices.leave if devices else sys.exit)(2)
    if run is None:
        print(f"{config.run} is finished: {config.training.epochs} epochs are done.")
        return config
    train(config, *run)
    finish(config, run[0])
    return config


def prepare(config):
    """All that can go wrong, before the first step. None if the run is finished already."""
    from dataclasses import asdict

    import keras

    from keras_ddpm import GaussianDiffusion
    from keras_ddpm.checkpoints import latest_checkpoint, load_diffusion_model
    from keras_ddpm.data import ImageDataset
    from keras_ddpm.devices import check_agreement, check_batches, is_chief, process, use_devices
    from keras_ddpm.samplers import make_sampler, plan_timesteps

    devices = use_devices(config.training.devices)
    check_batches([config.training.batch_size], devices)
    sampler = make_sampler(config.sampling.sampler, config.sampling.eta)
    diffusion = GaussianDiffusion(**asdict(config.diffusion))
    plan_timesteps(diffusion, sampler, config.sampling.steps, spacing=config.sampling.spacing)
    loggers = build_loggers(config)
    folder = make_writable(config.run)
    checkpoint, epochs_done = latest_checkpoint(folder / "checkpoints") or (None, 0)
    check_agreement({**flatten(config), "run": None}, epochs_done)
    if checkpoint:
        check_unchanged(config, folder / "config.yaml")
        if epochs_done == config.training.epochs and (folder / "final.keras").exists():
            return None
    keras.utils.set_random_seed(config.training.seed)
    keras.config.set_dtype_policy(config.training.dtype_policy)

    train_set, validation_set = load_data(config.data)
    # The order of the images depends on the seed and the epoch alone, so a resumed run sees
    # what it would have seen.
    dataset = ImageDataset(
        train_set,
        batch_size=config.training.batch_size,
        flip=config.data.flip,
        seed=config.training.seed,
        epoch=epochs_done,
        part=process(),
    )
    if validation_set is not None:  # as many for each device
        held_out = len(validation_set) // devices * devices
        if not held_out:
            raise ValueError(
                f"{len(validation_set)} held-out images are not one for each of {devices} devices: "
                "hold out more, or none."
            )
        validation_set = validation_set.first(held_out)
    validation = validation_set and ImageDataset(
        validation_set,
        batch_size=min(config.training.batch_size, len(validation_set)),
        shuffle=False,
        flip=False,
        drop_remainder=False,
        part=process(),
    )
    if checkpoint:
        model = load_diffusion_model(checkpoint)
    else:
        model = build_model(config, train_set)
    if is_chief():
        save_config(config, folder / "config.yaml")
    return model, dataset, validation, epochs_done, loggers


def build_loggers(config):
    """The callbacks that show or write progress, but for the log and the checkpoints."""
    from keras_ddpm.callbacks import SampleImages
    from keras_ddpm.command_line import build_callbacks
    from keras_ddpm.tensorboard import TensorBoard

    folder, sampling = Path(config.run), config.sampling
    samples = SampleImages(
        folder / "samples",
        every=sampling.every,
        num_images=sampling.num_images,
        **sampler_options(sampling),
    )
    loggers = [samples]
    if config.logging.tensorboard:
        loggers.append(TensorBoard(folder / "tensorboard", samples))
    return loggers + build_callbacks(config.logging.callbacks)


def load_data(config):
    """The training images, and those for val_loss or None."""
    from dataclasses import replace

    from keras_ddpm.data import load_images

    def load(split):
        images = load_images(
            config.name,
            split,
            config.image_size,
            config.channels,
            config.data_dir,
            config.background,
            config.num_images,
        )
        if not config.use_labels:
            return replace(images, labels=None, label_names=None)
        if images.labels is None:
            raise ValueError(f"data.use_labels is set, but {config.name} has no labels.")
        return images

    train_set, validation_set = load(config.split), None
    if config.validation_fraction is not None:
        train_set, validation_set = train_set.split(config.validation_fraction)
    elif config.validation_split is not None:
        validation_set = load(config.validation_split)
    return train_set, validation_set


def build_model(config, train_set):
    """A new model, or with `init_from` one that starts from another's averaged weights."""
    from dataclasses import asdict

    from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet

    num_classes = None
    if config.data.use_labels:
        num_classes = len(train_set.label_names or range(train_set.labels.max() + 1))
    network = build_unet(
        config.data.image_size,
        config.data.channels,
        num_classes=num_classes,
        **asdict(config.network),
    )
    if config.training.init_from:
        copy_weights(config.training.init_from, network)
    model = DiffusionModel(
        network,
        GaussianDiffusion(**asdict(config.diffusion)),
        ema_decay=config.training.ema_decay,
        label_dropout=config.training.label_dropout,
        label_names=train_set.label_names if config.data.use_labels else None,
        min_snr_gamma=config.training.min_snr_gamma,
        remat=config.training.remat,
        seed=config.training.seed,
    )
    model.compile(
        build_optimizer(config.training, len(train_set)),
        loss=config.training.loss,
        jit_compile=config.training.jit_compile,
        steps_per_execution=config.training.steps_per_execution,
    )
    return model


def copy_weights(path, network):
    from keras_ddpm.checkpoints import open_model

    source = open_model(path).ema_network
    shapes, wanted = ([w.shape for w in n.weights] for n in (source, network))
    if shapes != wanted:
        raise ValueError(
            f"the network in {path!r} ({source.count_params():,} parameters) is not the "
            f"configured one ({network.count_params():,} parameters). Give data and network the "
            "values in the config.yaml beside that file."
        )
    network.set_weights(source.get_weights())


def build_optimizer(config, num_images):
    """Adam, whose learning rate rises during the warm-up and then stays or falls to 0."""
    from keras.optimizers import Adam
    from keras.optimizers.schedules import CosineDecay, PolynomialDecay

    rate, warmup = config.learning_rate, config.warmup_steps
    total = config.epochs * (num_images // config.batch_size)
    if config.learning_rate_decay == "cosine":
        if warmup >= total:
            raise ValueError(f"training.warmup_steps={warmup} leaves none of {total} steps.")
        rate = (
            CosineDecay(0.0, total - warmup, warmup_target=rate, warmup_steps=warmup)
            if warmup
            else CosineDecay(rate, total)
        )
    elif warmup:
        rate = PolynomialDecay(0.0, warmup, end_learning_rate=rate)  # stays at its end
    # Keras wants None for one batch a step.
    accumulated = config.gradient_accumulation if config.gradient_accumulation > 1 else None
    return Adam(rate, clipnorm=config.clipnorm, gradient_accumulation_steps=accumulated)


def train(config, model, dataset, validation, epochs_done, loggers):
    import keras

    from keras_ddpm.callbacks import Checkpoint, Throughput
    from keras_ddpm.devices import is_chief

    folder, training = Path(config.run), config.training
    images_per_epoch = len(dataset) * training.batch_size
    callbacks = list(loggers)  # the samples' means first, for the log
    if is_chief():  # of several processes, this one writes and tells
        keep_rows(folder / "log.csv", epochs_done)
        callbacks += [
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
            # After what it vouches for: once an epoch has a checkpoint, it has a row in the log.
            Checkpoint(folder / "checkpoints", every=training.checkpoint_every),
            Throughput(images_per_epoch, training.epochs),
        ]
        describe(model, dataset, validation)
        if epochs_done:
            print(f"resuming     after epoch {epochs_done} of {training.epochs}", flush=True)
    model.fit(
        dataset,
        validation_data=validation,
        epochs=training.epochs,
        initial_epoch=epochs_done,
        shuffle=False,  # the data set shuffles by itself
        callbacks=callbacks,
        verbose=("auto" if sys.stdout.isatty() else 2) if is_chief() else 0,
    )


def sampler_options(sampling):
    names = ("sampler", "steps", "spacing", "eta", "guidance_scale", "seed")
    return {name: getattr(sampling, name) for name in names}


def keep_rows(csv_path, epochs_done):
    """Cuts a log to the epochs that the checkpoint knows of; the others are run again."""
    if not csv_path.exists():
        return
    rows = csv_path.read_bytes().splitlines(keepends=True)
    with written_aside(csv_path) as partial:
        partial.write_bytes(b"".join(rows[: epochs_done + 1]) if epochs_done else b"")


def describe(model, dataset, validation):
    import keras

    from keras_ddpm.devices import count

    # TensorFlow's devices have long names: "/job:localhost/replica:0/task:0/device:GPU:0".
    device = str(keras.ops.zeros(()).device).split("device:")[-1].lower()
    if (devices := count(model.network.weights)) > 1:
        device = f"{devices} devices"
    height, width, channels = model.sample_shape
    held_out = 0 if validation is None else len(validation.images)
    print(
        f"network      {model.network.count_params():,} parameters\n"
        f"images       {len(dataset.images)} for training, {held_out} for validation, "
        f"{height}x{width}x{channels}\n"
        f"steps        {len(dataset)} an epoch\n"
        f"backend      {keras.backend.backend()} on {device}",
        flush=True,
    )


def finish(config, model):
    """The loss as a picture, samples from the averaged weights, and the model itself."""
    from keras_ddpm.devices import check_agreement, is_chief
    from keras_ddpm.plotting import image_grid, plot_history, save_image

    folder, sampling = Path(config.run), config.sampling
    labels = None
    if model.num_classes is not None:
        labels = [i % model.num_classes for i in range(sampling.num_images)]
    images = model.generate(
        sampling.num_images,
        labels=labels,
        **sampler_options(sampling),
    )
    if is_chief():
        plot_history(folder / "log.csv", folder / "loss.png")
        save_image(folder / "samples.png", image_grid(images))
        with written_aside(folder / "final.keras") as partial:  # last: it says the run is finished
            model.save(partial)
        for name in ("final.keras", "samples.png", "loss.png", "log.csv"):
            print(folder / name)
    check_agreement("finished")  # the others wait until it is written


if __name__ == "__main__":
    main()
