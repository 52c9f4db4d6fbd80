"""Every number of a training run, named, explained and checked. Nothing here imports Keras."""

from dataclasses import dataclass, field
from typing import Literal

from keras_ddpm.validation import check_fraction, check_positive_int


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} must be more than 0, got {value}.")


@dataclass
class DataConfig:
    """The images.

    Args:
        name: "drawn_flowers" for the embedded set; "mnist", "fashion_mnist" or "cifar10", which
            have the splits "train" and "test"; the path of a folder of images; or a name of
            TensorFlow Datasets such as "oxford_flowers102".
        split: which part to train on: "train" for the embedded set, a sub-folder of a folder,
            TFDS's syntax else ("train+validation"). null is the training part.
        validation_split: the part to compute val_loss on, named like split.
        validation_fraction: instead of validation_split: the share of the training images to
            hold out, more than 0 and less than 1.
        image_size: side in pixels; images are cropped centrally and resized.
        channels: 3 for colour, 1 for grey.
        data_dir: where to look for folders and where TFDS keeps its data sets.
        background: what shows through transparent images: a colour name or "#rrggbb".
        num_images: load only the first so many of a split; null is all.
        flip: whether images are mirrored left to right at random.
        use_labels: whether the network is told each image's class.
    """

    name: str = "drawn_flowers"
    split: str | None = None
    validation_split: str | None = None
    validation_fraction: float | None = None
    image_size: int = 32
    channels: Literal[1, 3] = 3
    data_dir: str | None = None
    background: str = "white"
    num_images: int | None = None
    flip: bool = True
    use_labels: bool = False

    def __post_init__(self):
        check_positive_int("data.image_size", self.image_size)
        if self.num_images is not None:
            check_positive_int("data.num_images", self.num_images)
        if self.validation_fraction is not None:
            if self.validation_split is not None:
                raise ValueError(
                    "give data.validation_split or data.validation_fraction, not both."
                )
            if not 0 < self.validation_fraction < 1:
                raise ValueError(
                    "data.validation_fraction must be more than 0 and less than 1, "
                    f"got {self.validation_fraction}."
                )


@dataclass
class DiffusionConfig:
    """The diffusion process.

    Args:
        timesteps: steps from image to noise, T.
        schedule: how the noise grows: "linear" (Ho et al.) or "cosine" (Nichol & Dhariwal).
        beta_start: variance of the first step, linear schedule only.
        beta_end: variance of the last step, linear schedule only.
        prediction: what the network outputs: the noise, the image ("start") or v ("velocity").
        zero_terminal_snr: whether to rescale the schedule so that it ends without any signal (Lin
            et al.); not with prediction "noise".
        variance: of a reverse step: "posterior" or "beta", section 3.2 of Ho et al.
    """

    timesteps: int = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: Literal["noise", "start", "velocity"] = "noise"
    variance: Literal["posterior", "beta"] = "posterior"
    zero_terminal_snr: bool = False

    def __post_init__(self):
        check_positive_int("diffusion.timesteps", self.timesteps)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                "diffusion needs 0 < beta_start <= beta_end < 1, got "
                f"beta_start={self.beta_start} and beta_end={self.beta_end}."
            )
        if self.zero_terminal_snr and self.prediction == "noise":
            raise ValueError(
                "diffusion.zero_terminal_snr does not go with diffusion.prediction=noise: choose "
                "velocity or start."
            )


@dataclass
class NetworkConfig:
    """The U-Net.

    Args:
        widths: channels of each level, e.g. "[64, 128, 256]"; each level halves the image.
        has_attention: whether each level has self-attention, e.g. "[false, false, true]".
        num_res_blocks: residual blocks a level.
        norm_groups: groups of each GroupNormalization; must divide all widths.
        norm_epsilon: its epsilon.
        num_heads: attention heads, the same number at every level.
        head_dim: instead of num_heads: channels of a head, the same at every level.
        dropout: rate inside the residual blocks.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    has_attention: tuple[bool, ...] = (False, False, True)
    num_res_blocks: int = 2
    norm_groups: int = 8
    norm_epsilon: float = 1e-6
    num_heads: int = 1
    head_dim: int | None = None
    dropout: float = 0.0

    def __post_init__(self):
        if len(self.widths) != len(self.has_attention):
            raise ValueError(
                f"network.widths={list(self.widths)} and network.has_attention="
                f"{list(self.has_attention)} must have one entry a level."
            )
        check_positive_int("network.num_res_blocks", self.num_res_blocks)
        check_positive_int("network.norm_groups", self.norm_groups)
        check_positive_int("network.num_heads", self.num_heads)
        _check_positive("network.norm_epsilon", self.norm_epsilon)
        check_fraction("network.dropout", self.dropout)


@dataclass
class TrainingConfig:
    """The optimisation.

    Args:
        epochs: passes over the training images.
        batch_size: images a batch.
        gradient_accumulation: batches whose gradients are averaged for one step of the optimizer:
            a larger batch in the memory of a small one. Warm-up and decay count batches.
        learning_rate: of Adam, the highest it reaches.
        learning_rate_decay: "constant", or "cosine" down to 0 at the end of the last epoch.
        warmup_steps: batches during which the learning rate rises from 0.
        clipnorm: largest norm of each weight's gradient; null does not clip.
        loss: "mse" (Ho et al.), "mae" or "huber".
        ema_decay: decay of the averaged weights, which are those that samples are drawn from.
        label_dropout: share of labels hidden from the network, for classifier-free guidance.
        min_snr_gamma: weights the timesteps of the loss by min-SNR-γ (Hang et al.; they use 5);
            null weights all alike (Ho et al.).
        remat: whether the network's blocks compute what is inside them twice, instead of keeping it
            until the gradient needs it: less memory, more time.
        dtype_policy: precision of the network; "mixed_bfloat16" suits recent GPUs.
        jit_compile: whether to compile with XLA or torch.compile; "auto" leaves it to Keras.
        steps_per_execution: steps in one call of the compiled function.
        checkpoint_every: epochs from one checkpoint to the next.
        seed: of the initial weights, the noise and the order of the images.
        devices: on how many to train and sample, each with an equal part of every batch; "all"
            takes all there are. Several need JAX or TensorFlow, see docs/devices.md.
        init_from: a .keras file, or a preset, whose averaged weights to start from: fine-tuning.
            --init-from is short for this.
    """

    epochs: int = 100
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    clipnorm: float | None = None
    loss: Literal["mse", "mae", "huber"] = "mse"
    ema_decay: float = 0.999
    label_dropout: float = 0.1
    min_snr_gamma: float | None = None
    remat: bool = False
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    steps_per_execution: int = 1
    checkpoint_every: int = 1
    seed: int = 0
    devices: int | Literal["all"] = 1
    init_from: str | None = None

    def __post_init__(self):
        for name in ("epochs", "batch_size", "gradient_accumulation"):
            check_positive_int(f"training.{name}", getattr(self, name))
        for name in ("steps_per_execution", "checkpoint_every"):
            check_positive_int(f"training.{name}", getattr(self, name))
        if self.devices != "all":
            check_positive_int("training.devices", self.devices)
        check_positive_int("training.warmup_steps", self.warmup_steps, minimum=0)
        check_positive_int("training.seed", self.seed, minimum=0)
        _check_positive("training.learning_rate", self.learning_rate)
        if self.clipnorm is not None:
            _check_positive("training.clipnorm", self.clipnorm)
        if self.min_snr_gamma is not None:
            _check_positive("training.min_snr_gamma", self.min_snr_gamma)
        check_fraction("training.ema_decay", self.ema_decay)
        check_fraction("training.label_dropout", self.label_dropout)


@dataclass
class SamplingConfig:
    """The images drawn while training and at its end.

    Args:
        sampler: "ddim", "dpm_solver++", "heun" or "ddpm".
        steps: steps of the sampler, at most diffusion.timesteps; null is at most 50.
        spacing: "linspace", "leading", "trailing", "quadratic" or "logsnr": which timesteps the
            steps visit; null is the sampler's own choice.
        num_images: images in a grid.
        every: epochs from one grid to the next.
        seed: of the noise, the same for each grid.
        eta: fresh noise in DDIM and DPM-Solver++: 0 is deterministic, 1 like DDPM.
        guidance_scale: how strongly the samples are pushed towards their class; 1 does not push.
    """

    sampler: str = "ddim"
    steps: int | None = None
    spacing: str | None = None
    num_images: int = 16
    every: int = 1
    seed: int = 0
    eta: float = 0.0
    guidance_scale: float = 1.0

    def __post_init__(self):
        if self.steps is not None:
            check_positive_int("sampling.steps", self.steps)
        check_positive_int("sampling.num_images", self.num_images)
        check_positive_int("sampling.every", self.every)
        check_positive_int("sampling.seed", self.seed, minimum=0)
        if not self.eta >= 0:
            raise ValueError(f"sampling.eta must be at least 0, got {self.eta}.")
        if not self.guidance_scale >= 0:
            raise ValueError(
                f"sampling.guidance_scale must be at least 0, got {self.guidance_scale}."
            )


@dataclass
class LoggingConfig:
    """What else is written of a run, beside log.csv and the pictures.

    Args:
        tensorboard: whether to write the log and the grids for TensorBoard, to the folder
            tensorboard/ of the run.
        callbacks: further Keras callbacks, each a class with what its constructor takes, e.g.
            "[{class_path: keras.callbacks.RemoteMonitor, init_args: {root: http://localhost}}]".
    """

    tensorboard: bool = False
    callbacks: list[dict] = field(default_factory=list)


@dataclass
class RunConfig:
    """A training run.

    Args:
        run: the folder that everything is written to; the same folder again resumes the run.
        data: the images.
        diffusion: the diffusion process.
        network: the U-Net.
        training: the optimisation.
        sampling: the images drawn while training and at its end.
        logging: what else is written of it.

    Example:

    >>> RunConfig(run="runs/a", training=TrainingConfig(epochs=3)).training.epochs
    3
    """

    run: str = "runs/flowers"
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self):
        steps, timesteps = self.sampling.steps, self.diffusion.timesteps
        if steps is not None and steps > timesteps:
            raise ValueError(
                f"sampling.steps={steps} is more than diffusion.timesteps={timesteps}."
            )
        if self.sampling.guidance_scale != 1 and not self.data.use_labels:
            raise ValueError(
                f"sampling.guidance_scale={self.sampling.guidance_scale} needs data.use_labels."
            )
