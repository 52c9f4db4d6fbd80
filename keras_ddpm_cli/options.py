"""The options of a training run: its sections, their keys, and what these may be.

Many are arguments of the library. Their defaults stand here again, because importing the library
takes seconds, and `--help` should not; a test compares them.
"""

import inspect
from dataclasses import dataclass, field
from types import UnionType
from typing import Literal, Union, get_args, get_origin

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

WORDS = {
    PositiveInt: "an int of at least 1",
    NonNegativeInt: "an int of at least 0",
    PositiveFloat: "a number above 0",
    int: "an int",
    float: "a number",
    str: "a string",
    bool: "true or false",
    type(None): "null",
}


@dataclass
class Data:
    """The images.

    Args:
        name: "drawn_flowers", the embedded set; "mnist", "fashion_mnist" or "cifar10"; the path of
            a folder of images; a name of TensorFlow Datasets such as "oxford_flowers102"; or
            hf://user/name of the Hugging Face Hub.
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
        condition: what the network gets besides, made from each image: "super_resolution" (the
            image at half the size), "colouring" (the grey image) or "inpainting" (the image with a
            hole); null is nothing.
        store: a file *.npy, in which the images of a folder are kept instead of in memory.
        damaged: whether to "skip" files of a folder that cannot be read, or to "raise" an error.
    """

    name: str = "drawn_flowers"
    split: str | None = None
    validation_split: str | None = None
    validation_fraction: float | None = None
    image_size: int = 64
    channels: int = 3
    data_dir: str | None = None
    background: str = "white"
    num_images: int | None = None
    flip: bool = True
    use_labels: bool = False
    condition: Literal["super_resolution", "colouring", "inpainting"] | None = None
    store: str | None = None
    damaged: Literal["skip", "raise"] = "skip"


@dataclass
class Diffusion:
    """The process: the arguments of `GaussianDiffusion`.

    Args:
        timesteps: the number of steps T.
        schedule: how the noise grows: "linear" (Ho et al.), "cosine" (Nichol & Dhariwal), or "flow"
            (flow matching; not with prediction "noise").
        beta_start: first beta of the linear schedule.
        beta_end: last beta of the linear schedule.
        betas: numbers in (0, 1) that replace timesteps and schedule.
        prediction: what the network predicts: the "noise", the image at the "start", or the
            "velocity" (Salimans & Ho), which is learned fastest.
        variance: of a reverse step: "posterior" or "beta".
        zero_terminal_snr: whether x_T holds no signal at all (Lin et al.).
    """

    timesteps: int = 1000
    schedule: Literal["linear", "cosine", "flow"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    betas: list[float] | None = None
    prediction: Literal["noise", "start", "velocity"] = "noise"
    variance: Literal["posterior", "beta"] = "posterior"
    zero_terminal_snr: bool = False


@dataclass
class Network:
    """The U-Net: the arguments of `UNet`.

    Args:
        widths: channels of each level; each level has half the resolution of the one before.
        has_attention: for each level, whether its blocks are followed by self-attention.
        num_res_blocks: residual blocks a level.
        norm_groups: groups of GroupNorm, which must divide each width.
        norm_epsilon: what GroupNorm adds to the variance.
        num_heads: heads of the attention.
        head_dim: instead: channels of a head.
        dropout: share of activations that training sets to 0, in each residual block.
        downsample_padding: "end" pads at the right and below, "both" on all sides (diffusers).
        cosine_first: whether the time embedding begins with its cosines.
        freq_shift: 1 or 0, a detail of the time embedding.
        patch_size: pixels of a patch along one side. Above 1, patches take the place of pixels
            inside the network, which makes each step faster.
    """

    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    has_attention: list[bool] = field(default_factory=lambda: [False, False, True, True])
    num_res_blocks: int = 2
    norm_groups: int = 8
    norm_epsilon: float = 1e-6
    num_heads: int = 1
    head_dim: int | None = None
    dropout: float = 0.0
    downsample_padding: str = "end"
    cosine_first: bool = False
    freq_shift: int = 1
    patch_size: int = 1


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
        global_clipnorm: largest norm of all gradients together; null does not clip.
        loss: "mse" (Ho et al.), "mae" or "huber".
        ema_decay: decay of the averaged weights, which samples are drawn from.
        label_dropout: share of labels hidden from the network, for classifier-free guidance.
        condition_dropout: the same of the conditions of data.condition.
        min_snr_gamma: min-SNR-γ loss weights (Hang et al.; they use 5); null gives all timesteps
            the same weight (Ho et al.).
        timestep_distribution: which timesteps are trained most: "uniform", or "logit_normal", the
            middle ones (Esser et al.).
        remat: whether blocks are computed again for the gradient instead of kept in memory.
        dtype_policy: precision of the network; "mixed_bfloat16" suits recent GPUs.
        jit_compile: whether to compile with XLA or torch.compile; "auto" leaves it to Keras.
        steps_per_execution: steps in one call of the compiled function.
        checkpoint_every: epochs from one checkpoint to the next.
        seed: of the initial weights, the noise and the order of the images.
        devices: how many share each batch; "all" takes all there are. Several need JAX.
    """

    epochs: PositiveInt = 100
    batch_size: int = 32
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-4
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    global_clipnorm: PositiveFloat | None = None
    loss: Literal["mse", "mae", "huber"] = "mse"
    ema_decay: float = 0.999
    label_dropout: float = 0.1
    condition_dropout: float = 0.1
    min_snr_gamma: float | None = None
    timestep_distribution: Literal["uniform", "logit_normal"] = "uniform"
    remat: bool = False
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    steps_per_execution: PositiveInt = 1
    checkpoint_every: PositiveInt = 1
    seed: NonNegativeInt = 0
    devices: PositiveInt | Literal["all"] = 1


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


SECTIONS = {
    "data": Data,
    "diffusion": Diffusion,
    "network": Network,
    "training": Training,
    "sampling": Sampling,
    "logging": Logging,
}


def describe_option(section, key=None):
    """What an option may be, in words.

    >>> describe_option("training", "devices")
    "an int of at least 1 or 'all'"
    """
    if section not in SECTIONS:
        return "a string"
    if key is None:
        return f"keys and values; or give one as --{section}.KEY"
    return _describe_type(inspect.signature(SECTIONS[section]).parameters[key].annotation)


def _describe_type(kind):
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_describe_type, parts))
    return f"a list of {parts[0].__name__}s" if parts else WORDS[kind]
