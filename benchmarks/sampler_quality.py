"""How close are samples to the data, for each sampler, spacing and number of steps?

    python benchmarks/sampler_quality.py drawn_flowers_16 --part headline

The model, a preset or a `.keras` file, must have been trained on the embedded set with labels. Two
questions are answered:

Closeness. The Fréchet distance of the samples, labels balanced over the classes and guidance 1, to
20 000 fresh drawings, in the features of `flower_features.py` and in thousandths of their total
variance. It is biased upward by about 1 / n, so only rows of one n compare, and n further drawings
take the place of the samples: their distance is the floor.

Obedience. The share of samples that are of the class that was asked for, at guidance scales 1, 2
and 4, with deterministic and random samplers, by two judges: that classifier, which must decide
for one of the 24 classes, and `describe_flowers`, which also rejects what is no class, such as
seven petals. And whether samples without labels have each class as often as the data.

Samples are made in chunks, each from its own seed (other chunk sizes are other samples), and kept
in the output folder: the command goes on where it was stopped, and several processes may share it.
A chunk's name states how it was made, the folder's the model's checksum and its precision, but
nothing the version of the code: choose another folder after changing a sampler. Times are of
sampling alone, compiled.
"""

import argparse
import os
import sys
import zlib
from itertools import product
from pathlib import Path
from typing import NamedTuple

from threads import add_threads_option, limit_threads

PARTS = ("headline", "curve", "guidance")
HEADLINE = (("ddpm", 1000), ("ddim", 20), ("ddim", 50), ("heun", 10))  # the others against DDPM
DPM_SPACINGS = ("trailing", "logsnr")
CURVE_STEPS = (50, 20, 10, 5)
GUIDANCE_SCALES = (1.0, 2.0, 4.0)
GUIDED = (("dpm_solver++", 20, 0.0), ("dpm_solver++", 20, 1.0), ("ddim", 50, 1.0))


class Row(NamedTuple):
    """One way to draw samples: a row of a table."""

    sampler: str
    steps: int
    spacing: str
    eta: float = 0.0
    guidance: float = 1.0
    labelled: bool = True

    @property
    def name(self):
        kind = f"guidance{self.guidance:g}" if self.labelled else "unlabelled"
        return f"{self.sampler}_{self.spacing}_{self.steps}_eta{self.eta:g}_{kind}"

    @property
    def evaluations(self):
        """Of the network, for one sample; Heun's method may make do with a few less."""
        once = 2 * self.steps - 1 if self.sampler == "heun" else self.steps
        return once if self.guidance == 1 else 2 * once


def plan_rows(timesteps):
    """The rows of each part, for a diffusion of so many timesteps."""
    from keras_ddpm.samplers import SAMPLERS, SPACINGS

    def row(sampler, steps, spacing="trailing", eta=0.0, **options):
        return Row(sampler, min(steps, timesteps), spacing, eta, **options)

    dpm = [("dpm_solver++", 20, spacing, eta) for spacing in DPM_SPACINGS for eta in (0.0, 1.0)]
    random = [("ddim", "trailing"), *(("dpm_solver++", spacing) for spacing in DPM_SPACINGS)]
    rows = {
        "headline": [row(*one) for one in [*HEADLINE, *dpm]],
        "curve": [row(*one) for one in product(SAMPLERS, CURVE_STEPS, SPACINGS)]
        + [row(one, steps, spacing, 1.0) for one, spacing in random for steps in CURVE_STEPS],
        "guidance": [
            row(sampler, steps, eta=eta, **options)
            for sampler, steps, eta in GUIDED
            for options in [*({"guidance": s} for s in GUIDANCE_SCALES), {"labelled": False}]
        ],
    }
    return {part: list(dict.fromkeys(of_part)) for part, of_part in rows.items()}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="a .keras file, or a preset: its name or its folder")
    add("--output", default="runs/sampler_quality", help="folder (default: %(default)s)")
    add(
        "--part",
        choices=[*PARTS, "all", "report"],
        default="headline",
        help="what to draw samples for; report: draw none (default: %(default)s)",
    )
    add("--num_images", type=int, default=10000, help="of a headline row (default: %(default)s)")
    add("--num_curve", type=int, default=2000, help="of any other row (default: %(default)s)")
    add("--chunk_size", type=int, default=500, help="samples of a file (default: %(default)s)")
    add("--num_drawings", type=int, default=20000, help="of the reference and of training features")
    add("--dtype_policy", help="precision of the network (default: as the model was saved)")
    add_threads_option(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    limit_threads(args.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        model, output = check(args)
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    measure(args, model, output)


def check(args):
    """The model and the output folder, if all arguments make sense."""
    from quality_report import GROUPS

    from keras_ddpm.checkpoints import open_model
    from keras_ddpm.data.drawn_flowers import LABEL_NAMES, SMALLEST_SIZE
    from keras_ddpm.files import make_writable
    from keras_ddpm.validation import check_positive_int

    check_positive_int("--chunk_size", args.chunk_size)
    for name in ("num_images", "num_curve", "num_drawings"):
        check_positive_int(f"--{name}", getattr(args, name), minimum=2 * GROUPS)
    for name in ("num_images", "num_curve"):
        if getattr(args, name) % args.chunk_size:
            raise ValueError(
                f"--{name} {getattr(args, name)} must be a multiple of --chunk_size "
                f"{args.chunk_size}."
            )
    model = open_model(args.model, args.dtype_policy)
    shape, classes = model.sample_shape, model.num_classes
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 3 or min(shape[:2]) < SMALLEST_SIZE:
        raise ValueError(f"{args.model!r} generates {shape}, no RGB images of the embedded set.")
    if classes != len(LABEL_NAMES):
        raise ValueError(
            f"{args.model!r} has {classes or 'no'} classes, but the embedded set "
            f"{len(LABEL_NAMES)}."
        )
    return model, make_writable(args.output)


def file_of(source):
    """The file that a model's weights were read from."""
    from keras_ddpm.presets import WEIGHTS, find_preset

    return Path(source) if Path(source).is_file() else find_preset(source) / WEIGHTS


def measure(args, model, output):
    """Draws the samples, and reports once all of them are there."""
    from kept_samples import Samples
    from quality_report import report

    parts = plan_rows(model.diffusion.timesteps)
    counts = {part: args.num_curve for part in PARTS} | {"headline": args.num_images}
    wanted = {}
    for part in PARTS:
        if args.part in (part, "all"):
            for row in parts[part]:
                wanted[row] = max(counts[part], wanted.get(row, 0))
    wanted = dict(sorted(wanted.items(), key=lambda item: item[0].evaluations * item[1]))

    kind = f"samples_{zlib.crc32(file_of(args.model).read_bytes()):08x}"
    kind += f"_{args.dtype_policy}" if args.dtype_policy else ""
    samples = Samples(output / kind, args.chunk_size)
    samples.make(model, wanted)
    with samples.claim("report") as mine:
        if samples.missing(wanted) or not mine:
            print("Another process has yet to finish. It will report.")
            return
        report(model, samples, parts, counts, output, args.num_drawings)


if __name__ == "__main__":
    main()
