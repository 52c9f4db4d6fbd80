"""The configuration of a training run: YAML files and the command line.

The sections `diffusion` and `network` are the arguments of `GaussianDiffusion` and `UNet`.
"""

import inspect
import json
import pydoc
import re
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from keras.callbacks import Callback

from keras_ddpm.data import ImageDataset, load_images
from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.files import atomic_write
from keras_ddpm.model import DiffusionModel
from keras_ddpm.unet import UNet
from keras_ddpm.validation import did_you_mean

# A resumed run may change these: they have no influence on the weights.
FREE_TO_CHANGE = ("run", "training.checkpoint_every", "training.devices", "sampling.", "logging.")
NOT_IN_NETWORK = {"image_size", "channels", "num_classes", "remat", "dtype", "name"}
UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: (?:--)?(?P<argument>[^\s=]+)"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"
    r"|(?:Option|Key) '(?P<key>[^']+)' is not (?:accepted|expected)"
)


def default(function, argument):
    return inspect.signature(function).parameters[argument].default


@dataclass
class Data:
    """The images.

    Args:
        name: "drawn_flowers", the embedded set; "mnist", "fashion_mnist" or "cifar10"; the path of
            a folder of images; or a name of TensorFlow Datasets such as "oxford_flowers102".
        split: which part to train on, see `load_images`; null is the training part.
        validation_split: the part to compute val_loss on, named like split.
        validation_fraction: instead: the share of the training images to hold out.
        image_size: side in pixels; images are cropped centrally and resized.
        channels: 3 for colour, 1 for grey.
        data_dir: where to look for folders and where TFDS keeps its data sets.
        background: what shows through transparent images: a colour name or "#rrggbb".
        num_images: load only the first so many of a split; null is all.
        flip: whether images are mirrored left to right at random.
        use_labels: whether the network gets each image's class.
    """

    name: str = "drawn_flowers"
    split: str | None = None
    validation_split: str | None = None
    validation_fraction: float | None = None
    image_size: int = default(load_images, "image_size")
    channels: int = default(load_images, "channels")
    data_dir: str | None = None
    background: str = default(load_images, "background")
    num_images: int | None = None
    flip: bool = default(ImageDataset, "flip")
    use_labels: bool = False


@dataclass
class Training:
    """The optimisation.

    Args:
        epochs: passes over the training images.
        batch_size: images a batch.
        gradient_accumulation: batches whose gradients are averaged for one step of the optimizer.
            Warm-up and decay count batches.
        learning_rate: of Adam, the highest it reaches.
        learning_rate_decay: "constant", or "cosine" down to 0 at the end of the last epoch.
        warmup_steps: batches during which the learning rate rises from 0.
        clipnorm: largest norm of each weight's gradient; null does not clip.
        loss: "mse" (Ho et al.), "mae" or "huber".
        ema_decay: decay of the averaged weights, which samples are drawn from.
        label_dropout: share of labels hidden from the network, for classifier-free guidance.
        min_snr_gamma: min-SNR-γ loss weights (Hang et al.; they use 5); null gives all timesteps
            the same weight (Ho et al.).
        remat: whether blocks are computed again for the gradient instead of kept in memory.
        dtype_policy: precision of the network; "mixed_bfloat16" suits recent GPUs.
        jit_compile: whether to compile with XLA or torch.compile; "auto" leaves it to Keras.
        steps_per_execution: steps in one call of the compiled function.
        checkpoint_every: epochs from one checkpoint to the next.
        seed: of the initial weights, the noise and the order of the images.
        devices: how many share each batch; "all" takes all there are. Several need JAX.
        init_from: a .keras file, or a preset, whose averaged weights to start from (fine-tuning).
            --init-from is short for this.
    """

    epochs: PositiveInt = 100
    batch_size: int = default(ImageDataset, "batch_size")
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-4
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    clipnorm: PositiveFloat | None = None
    loss: Literal["mse", "mae", "huber"] = "mse"
    ema_decay: float = default(DiffusionModel, "ema_decay")
    label_dropout: float = default(DiffusionModel, "label_dropout")
    min_snr_gamma: float | None = default(DiffusionModel, "min_snr_gamma")
    remat: bool = default(UNet, "remat")
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    steps_per_execution: PositiveInt = 1
    checkpoint_every: PositiveInt = 1
    seed: NonNegativeInt = 0
    devices: PositiveInt | Literal["all"] = 1
    init_from: str | None = None


@dataclass
class Sampling:
    """The images drawn while training and at its end.

    Args:
        sampler: "ddim", "dpm_solver++", "heun" or "ddpm".
        steps: steps of the sampler, at most diffusion.timesteps; null is at most 50.
        spacing: which timesteps are visited: "trailing" (the default), "linspace", "leading", ….
        num_images: images in a grid.
        every: epochs from one grid to the next.
        seed: of the noise, the same for each grid.
        eta: fresh noise in DDIM and DPM-Solver++: 0 is deterministic, 1 adds as much as DDPM.
        guidance_scale: weight of the guidance towards the classes; 1 is none.
    """

    sampler: str = "ddim"
    steps: int | None = None
    spacing: str | None = None
    num_images: int = 16
    every: int = 1
    seed: int = 0
    eta: float = 0.0
    guidance_scale: float = 1.0


@dataclass
class Logging:
    """What else is written of a run, besides log.csv and the pictures.

    Args:
        tensorboard: whether to write the log and the grids to tensorboard/ in the run's folder.
        callbacks: further Keras callbacks, each a class with the arguments of its constructor, e.g.
            "[{class_path: keras.callbacks.EarlyStopping, init_args: {monitor: loss}}]".
    """

    tensorboard: bool = False
    callbacks: list[dict] = field(default_factory=list)


class ConfigParser(ArgumentParser):
    """A parser that answers an unknown key with the nearest one it knows."""

    def error(self, message, ex=None):
        if found := UNKNOWN_KEY.search(str(message)):
            key = found["argument"] or found["key"] or f"{found['group']}.{found['option']}"
            known = dict(self.get_defaults().items())
            message = f"{key!r} is not a key of the configuration{did_you_mean(key, known)}"
        super().error(message, ex)


def parse_config(args, default_config=None, description=None):
    """Reads a run's configuration; prints an error and exits with code 2 if it is wrong.

    `--config file.yaml` reads a file instead of the default one, and `--section.key value`
    overrides it. Returns a namespace of sections, which are namespaces of values.

    >>> parse_config(["--training.epochs", "3"]).training.epochs
    3
    """
    args = [re.sub(r"^--init[-_]from(?==|$)", "--training.init_from", arg) for arg in args]
    if default_config and not any(re.match(r"--config(=|$)", arg) for arg in args):
        args = ["--config", str(default_config), *args]
    parser = ConfigParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of what follows.")
    help = "the folder that everything is written to; the same folder again resumes the run"
    parser.add_argument("--run", type=str, default="runs/flowers", help=help)
    parser.add_class_arguments(Data, "data", instantiate=False)
    parser.add_class_arguments(GaussianDiffusion, "diffusion", instantiate=False)
    parser.add_class_arguments(UNet, "network", instantiate=False, skip=NOT_IN_NETWORK)
    parser.add_class_arguments(Training, "training", instantiate=False)
    parser.add_class_arguments(Sampling, "sampling", instantiate=False)
    parser.add_class_arguments(Logging, "logging", instantiate=False)
    config = parser.parse_args(args).as_dict()
    del config["config"]  # what the files said is in the sections
    config = json.loads(json.dumps(config))  # plain numbers and lists
    sections = {key: Namespace(**v) if isinstance(v, dict) else v for key, v in config.items()}
    return Namespace(**sections)


def build_callbacks(specs):
    """The callbacks of `logging.callbacks`; a ValueError names what is wrong with them.

    >>> build_callbacks([{"class_path": "keras.callbacks.TerminateOnNaN"}])[0].__class__.__name__
    'TerminateOnNaN'
    """

    def together(callbacks: list[Callback]):
        """The parser builds what this function takes."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(together, fail_untyped=False)
    try:
        parsed = parser.parse_object({"callbacks": deepcopy(specs)})  # it changes its argument
        for spec, found in zip(specs, parsed.callbacks):  # what is missing has become None
            inspect.signature(pydoc.locate(found.class_path)).bind(**spec.get("init_args", {}))
    except (ArgumentError, TypeError) as error:
        raise ValueError(f"logging.callbacks: {error}") from error
    return parser.instantiate(parsed).callbacks


def save_config(config, path):
    """Writes a configuration as YAML that `--config` reads."""
    with atomic_write(path) as partial:
        partial.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))


def check_unchanged(config, saved_path):
    """Refuses to go on with a run whose configuration, in `saved_path`, was another.

    Sampling and logging may change, and `training.epochs` may grow if the learning rate is
    constant.
    """
    if not Path(saved_path).is_file():
        raise FileNotFoundError(
            f"the run has checkpoints but no {str(saved_path)!r}, so it is not known what they "
            "are of. Choose another folder with --run."
        )
    old, new = dict(parse_config(["--config", str(saved_path)]).items()), dict(config.items())
    changed = [k for k in new if new[k] != old[k] and not k.startswith(FREE_TO_CHANGE)]
    may_grow = config.training.learning_rate_decay == "constant"
    if may_grow and new["training.epochs"] > old["training.epochs"]:
        changed.remove("training.epochs")
    if changed:
        lines = "\n".join(f"  {key}: {old[key]!r} -> {new[key]!r}" for key in changed)
        raise ValueError(
            f"this run began with another configuration, in {str(saved_path)!r}:\n{lines}\n"
            "Set these back to go on, or choose another folder with --run; it may start from these "
            "weights with --training.init_from. training.epochs may only grow, and only with a "
            "constant learning rate."
        )
