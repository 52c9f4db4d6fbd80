"""Trains a diffusion model on images, and resumes after a kill."""

import sys
import zlib
from pathlib import Path

import keras
import numpy as np
from keras.optimizers.schedules import CosineDecay, PolynomialDecay

from keras_ddpm.callbacks import CSVLog, SampleImages, Throughput
from keras_ddpm.callbacks.checkpoint import Checkpoint, latest_checkpoint
from keras_ddpm.callbacks.tensorboard import TensorBoard
from keras_ddpm.conditions import CONDITIONINGS
from keras_ddpm.data import ImageDataset, ImageSet, load_images
from keras_ddpm.devices import check_batches, is_chief, process, processes_agree, use_devices
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.files import lock_folder, make_writable
from keras_ddpm.model import DiffusionModel, load_diffusion_model
from keras_ddpm.model.batches import batch_sizes
from keras_ddpm.optimizers import FusedAdam
from keras_ddpm.pixels import to_float
from keras_ddpm.plotting import image_grid, plot_history, save_image, visible_scale
from keras_ddpm.unet import UNet
from keras_ddpm.validation import check_int, check_number
from keras_ddpm_cli import quiet
from keras_ddpm_cli.common import MAX_SEED, user_errors
from keras_ddpm_cli.config import build_callbacks, check_unchanged, save_config
from keras_ddpm_cli.source import read_source

# What can happen in the middle of a run: a full disk, no memory, a loss that is not finite.
RUN_ERRORS = (FloatingPointError, MemoryError, OSError)


def run(config):
    """Trains as a configuration says, or goes on with a run."""
    hint = "interrupted: the same command goes on from the last checkpoint."
    with user_errors("--training.", RUN_ERRORS, hint, large="batch_size"):
        run = Run(config)
        if run.is_finished:
            print(f"{run.folder} is finished: {run.epochs_done} epochs are done.")
        else:
            run.fit()
            run.finish()


class Run:
    """A training run. Making it finds everything that can go wrong before the first step."""

    def __init__(self, config):
        self.config, self.folder, training = config, Path(config.run), config.training
        with user_errors("--training."):
            check_int("seed", training.seed, minimum=0, maximum=MAX_SEED)
            self.devices = use_devices(training.devices)
            check_batches([training.batch_size])
        if config["from"] is not None:
            with user_errors("--"), quiet():
                self.source = read_source(config)
        with user_errors("--diffusion."):
            self.diffusion = GaussianDiffusion(**config.diffusion.as_dict())
        with user_errors("--sampling."):
            self.loggers = self.build_loggers()
        with user_errors():
            if is_chief():
                self.lock = lock_folder(make_writable(self.folder))
            checkpoint = self.find_checkpoint()
        final = self.folder / "final.keras"
        self.is_finished = self.epochs_done == training.epochs and final.exists()
        if self.is_finished:
            return
        with quiet():  # Keras imports TensorFlow here, where it is installed
            keras.utils.set_random_seed(training.seed)
        keras.config.set_dtype_policy(training.dtype_policy)
        with user_errors("--data."):
            train_set, validation_set = self.load_data()
        with user_errors("--training."):
            self.make_datasets(train_set, validation_set)
        with user_errors():
            load = load_diffusion_model
            self.model = load(checkpoint) if checkpoint else self.build_model(train_set)
        with user_errors("--sampling."):
            if self.model.conditioning:
                self.choose_examples(validation_set or train_set)
            self.samples.set_model(self.model)
            self.samples.on_train_begin()  # whether it can draw them
        if is_chief():
            save_config(config, self.folder / "config.yaml")

    def build_loggers(self):
        """The callbacks that show or write progress, except for the log and the checkpoints."""
        names = ("sampler", "steps", "spacing", "eta", "guidance_scale", "seed")
        sampling = {name: self.config.sampling[name] for name in names}
        data = self.config.data
        if sampling["guidance_scale"] != 1 and not (data.use_labels or data.condition):
            raise ValueError(
                f"guidance_scale={sampling['guidance_scale']} needs --data.use_labels true."
            )
        every, num_images = self.config.sampling.every, self.config.sampling.num_images
        self.samples = SampleImages(self.folder / "samples", every, num_images, **sampling)
        sampler = self.samples.sampling["sampler"]
        sampler.coefficients(self.diffusion, sampler.plan(self.diffusion))  # may refuse
        loggers = [self.samples]
        if self.config.logging.tensorboard:
            loggers.append(TensorBoard(self.folder / "tensorboard", self.samples))
        return loggers + build_callbacks(self.config.logging.callbacks)

    def choose_examples(self, images):
        """Makes the grids of conditions of these images, always the same."""
        count = self.samples.num_images
        examples = images.take(np.linspace(0, len(images) - 1, count).astype(int))
        seed = keras.random.SeedGenerator(self.config.sampling.seed)
        images = keras.ops.convert_to_tensor(to_float(examples.images))
        condition = self.model.conditioning.draw(images, seed)
        self.samples.labels = examples.labels
        self.samples.sampling["condition"] = keras.ops.convert_to_numpy(condition)

    def find_checkpoint(self):
        """The latest checkpoint, the same in all processes, or None."""
        latest = latest_checkpoint(self.folder / "checkpoints")
        checkpoint, self.epochs_done = latest or (None, 0)
        settings = {**dict(self.config.items()), "run": None, "epochs_done": self.epochs_done}
        if not processes_agree(zlib.crc32(repr(settings).encode()) % 2**31):
            raise ValueError(
                "the processes do not agree on the configuration, or on how far the run is. Start "
                "all of them with the same arguments, and with a run folder that all of them see."
            )
        if checkpoint:
            check_unchanged(self.config, self.folder / "config.yaml")
        return checkpoint

    def load_data(self):
        """The training images, and those for val_loss or None."""
        config = self.config.data
        names = ("image_size", "channels", "data_dir", "background", "num_images", "damaged")
        options = {name: config[name] for name in names}

        def load(split, store=config.store):
            images = load_images(config.name, split, store=store, **options)
            if config.use_labels and images.labels is None:
                raise ValueError(f"use_labels=true, but {config.name} has no labels.")
            return images if config.use_labels else ImageSet(images.images)

        if config.validation_fraction is None:
            train_set = load(config.split)
            if config.validation_split is None:
                return train_set, None
            with user_errors("--data.", split="--data.validation_split"):
                path = config.store and Path(config.store).with_suffix(".validation.npy")
                validation_set = load(config.validation_split, path)
            if validation_set.class_names != train_set.class_names:
                raise ValueError(
                    f"validation_split={config.validation_split!r} has other classes than the "
                    "training images."
                )
            return train_set, validation_set
        if config.validation_split is not None:
            raise ValueError(
                f"validation_fraction={config.validation_fraction} and validation_split="
                f"{config.validation_split} exclude each other."
            )
        check_number("validation_fraction", config.validation_fraction, "(0, 1)")
        if config.store is not None:
            raise ValueError(
                f"validation_fraction={config.validation_fraction} would bring the images of "
                "--data.store into memory; use --data.validation_split."
            )
        return load(config.split).split(config.validation_fraction)

    def make_datasets(self, train_set, validation_set):
        """Batches for training and validation; each process gets its part of them."""
        training = self.config.training
        self.dataset = ImageDataset(
            train_set,
            batch_size=training.batch_size,
            flip=self.config.data.flip,
            seed=training.seed,
            epoch=self.epochs_done,
            part=process(),
        )
        self.validation = None
        if validation_set is not None:
            count = len(validation_set) // self.devices * self.devices  # as many for each device
            self.validation = ImageDataset(
                validation_set.take(np.arange(count)),
                batch_size=min(training.batch_size, count),
                shuffle=False,
                flip=False,
                drop_remainder=False,
                part=process(),
            )
            check_batches(batch_sizes(self.validation))

    def build_model(self, train_set):
        """A new model; with `--from` it starts from another model's averaged weights."""
        training = self.config.training
        names = ("ema_decay", "label_dropout", "condition_dropout", "min_snr_gamma")
        names += ("timestep_distribution", "seed")
        options = {name: training[name] for name in names}
        options["class_names"] = train_set.class_names
        if self.config["from"] is not None:
            model = self.adapt_source(train_set.num_classes, options)
        else:
            model = self.new_model(train_set.num_classes, options)
        with user_errors("--training."):
            model.compile(
                self.build_optimizer(),
                loss=training.loss,
                jit_compile=training.jit_compile,
                steps_per_execution=training.steps_per_execution,
            )
        return model

    def new_model(self, num_classes, options):
        data, training = self.config.data, self.config.training
        conditioning = data.condition and CONDITIONINGS[data.condition]()
        shape = (data.image_size, data.image_size, data.channels)
        with user_errors(
            "--network.", large="widths", image_size="--data.image_size", channels="--data.channels"
        ):
            network = UNet(
                data.image_size,
                data.channels,
                num_classes=num_classes,
                condition_channels=conditioning and conditioning.channels(shape),
                remat=training.remat,
                **self.config.network.as_dict(),
            )
        with user_errors("--training."):
            return DiffusionModel(network, self.diffusion, conditioning=conditioning, **options)

    def adapt_source(self, num_classes, options):
        source = self.source.with_dtype_policy(self.config.training.dtype_policy)
        with user_errors("--training.", image_size="--data.image_size"):
            return source.adapt(self.config.data.image_size, num_classes or 0, **options)

    def build_optimizer(self):
        """Adam, whose learning rate rises during the warm-up and then stays or falls to 0."""
        training = self.config.training
        rate, warmup = training.learning_rate, training.warmup_steps
        total = training.epochs * len(self.dataset)
        if warmup >= total:
            raise ValueError(f"warmup_steps={warmup} must be less than the {total} steps.")
        if training.learning_rate_decay == "cosine":
            warm = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
            rate = CosineDecay(0.0 if warmup else rate, total - warmup, **warm)
        elif warmup:
            rate = PolynomialDecay(0.0, warmup, end_learning_rate=rate)  # stays at its end
        # Keras expects None for one batch a step.
        accumulated = training.gradient_accumulation if training.gradient_accumulation > 1 else None
        options = {"gradient_accumulation_steps": accumulated}
        return FusedAdam(rate, global_clipnorm=training.global_clipnorm, **options)

    def fit(self):
        """Trains. Of several processes, the first writes and prints."""
        training, callbacks = self.config.training, list(self.loggers)  # they add to the logs
        if is_chief():
            callbacks += [
                CSVLog(self.folder / "log.csv"),
                # Once an epoch has a checkpoint, it has a row in the log.
                Checkpoint(self.folder / "checkpoints", every=training.checkpoint_every),
                Throughput(len(self.dataset) * training.batch_size, training.epochs),
            ]
            self.describe()
        self.model.fit(
            self.dataset,
            validation_data=self.validation,
            epochs=training.epochs,
            initial_epoch=self.epochs_done,
            callbacks=callbacks,
            verbose=("auto" if sys.stdout.isatty() else 2) if is_chief() else 0,
        )

    def describe(self):
        """What is trained, and where it is written, in two lines."""
        # TensorFlow's devices have long names: "/job:localhost/replica:0/task:0/device:GPU:0".
        device = str(keras.ops.zeros(()).device).split("device:")[-1].lower()
        device = f"{self.devices} devices" if self.devices > 1 else device
        held_out = 0 if self.validation is None else len(self.validation.images)
        shape = "x".join(map(str, self.model.sample_shape))
        print(
            f"{self.model.network.count_params():,} parameters, {keras.backend.backend()} on "
            f"{device}; {len(self.dataset.images)} images {shape}, {held_out} for validation\n"
            f"{self.epochs_done} of {self.config.training.epochs} epochs of {len(self.dataset)} "
            f"steps are done; pictures, log, checkpoints and final.keras go to {self.folder}",
            flush=True,
        )

    def finish(self):
        """The loss as a picture, samples from the averaged weights, and the model itself."""
        images = self.samples.draw()
        if is_chief():
            plot_history(self.folder / "log.csv", self.folder / "loss.png")
            grid = image_grid(images)
            save_image(self.folder / "samples.png", grid, visible_scale(grid))
            self.model.save(self.folder / "final.keras")  # last: it ends the run
            for name in ("final.keras", "samples.png", "loss.png", "log.csv"):
                print(self.folder / name)
        processes_agree(0)  # the others wait until it is written
