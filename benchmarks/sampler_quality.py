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

Samples are made in chunks, each from its own seed, and kept in the output folder, so the command
goes on where it was stopped, and several processes may share the folder. A chunk's name states how
it was made, and the folder's the model's checksum, but nothing states the version of the code:
choose another folder after changing a sampler. Times are of the sampling call alone, compiled.
"""

import argparse
import fcntl
import os
import sys
import time
import zlib
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

PARTS = ("headline", "curve", "guidance")
CURVE_STEPS = (50, 20, 10, 5)  # a table's first row is what the others are compared with
GUIDANCE_SCALES = (1.0, 2.0, 4.0)
GUIDED = (("dpm_solver++", 20, 0.0), ("dpm_solver++", 20, 1.0), ("ddim", 50, 1.0))
BATCH_SIZE = 100


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

    def row(sampler, steps, spacing=None, eta=0.0, **options):
        spacing = spacing or SAMPLERS[sampler].spacing
        return Row(sampler, min(steps, timesteps), spacing, eta, **options)

    headline = [("ddpm", 1000), ("ddim", 20), ("ddim", 50), ("heun", 10)]
    headline += product(["dpm_solver++"], [20], ["trailing", "logsnr"], [0.0, 1.0])
    random = [("ddim", "trailing"), ("dpm_solver++", "trailing"), ("dpm_solver++", "logsnr")]
    rows = {
        "headline": [row(*one) for one in headline],
        "curve": [row(*one) for one in product(SAMPLERS, CURVE_STEPS, SPACINGS)]
        + [row(one, steps, spacing, 1.0) for one, spacing in random for steps in CURVE_STEPS],
        "guidance": [
            row(sampler, steps, None, eta, **options)
            for sampler, steps, eta in GUIDED
            for options in [*({"guidance": s} for s in GUIDANCE_SCALES), {"labelled": False}]
        ],
    }
    return {part: list(dict.fromkeys(of_part)) for part, of_part in rows.items()}


class Samples:
    """The chunks of samples in a folder, made by one process or several.

    Args:
        folder: a path; it is created.
        chunk_size: int, images a chunk.
    """

    def __init__(self, folder, chunk_size):
        self.folder, self.chunk_size = folder, chunk_size
        folder.mkdir(exist_ok=True)
        self._claims = open(folder / "claims", "w")  # noqa: SIM115 - locks last until it closes

    def paths(self, row, num_images):
        """The files of a row's first `num_images` samples, whether they exist or not."""
        starts = range(0, num_images, self.chunk_size)
        names = [f"{start:06d}-{start + self.chunk_size - 1:06d}.npz" for start in starts]
        return [self.folder / row.name / name for name in names]

    def missing(self, rows):
        """Triples (row, number of the first image, path) that have yet to be made.

        Args:
            rows: dict from `Row` to number of images.
        """
        return [
            (row, i * self.chunk_size, path)
            for row, num_images in rows.items()
            for i, path in enumerate(self.paths(row, num_images))
            if not path.exists()
        ]

    def load(self, row, num_images):
        """Images, labels and the median seconds of an image, or None if some are missing."""
        import numpy as np

        paths = self.paths(row, num_images)
        if not all(path.exists() for path in paths):
            return None
        chunks = [np.load(path) for path in paths]
        images, labels = (np.concatenate([c[k] for c in chunks]) for k in ("images", "labels"))
        return images, labels, float(np.median([c["seconds"] for c in chunks])) / self.chunk_size

    @contextmanager
    def claim(self, name):
        """Lends a name to one process at a time. The kernel takes it back from a dead one."""
        byte = zlib.crc32(str(name).encode())
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def make(self, model, rows):
        """Makes the missing chunks, but for those that other processes are at."""
        missing, compiled = self.missing(rows), set()
        for done, (row, first, path) in enumerate(missing, 1):
            with self.claim(path) as mine:
                if not mine or path.exists():
                    continue
                program = row._replace(spacing="")
                if program not in compiled:  # not to be timed
                    draw(model, row, min(BATCH_SIZE, self.chunk_size), first)
                    compiled.add(program)
                seconds = self._make_chunk(model, row, first, path)
            print(
                f"[{done}/{len(missing)}] {row.name}, from image {first}: {seconds:.1f} s, "
                f"{1000 * seconds / self.chunk_size:.3g} ms an image",
                flush=True,
            )

    def _make_chunk(self, model, row, first, path):
        import numpy as np

        from keras_ddpm.files import written_aside
        from keras_ddpm.plotting import to_uint8

        begin = time.perf_counter()
        images, labels = draw(model, row, self.chunk_size, first)
        seconds = time.perf_counter() - begin
        path.parent.mkdir(exist_ok=True)
        with written_aside(path) as partial:
            np.savez_compressed(partial, images=to_uint8(images), labels=labels, seconds=seconds)
        return seconds


def draw(model, row, num_images, first):
    """Samples number `first` and following, with the labels that were asked for, in turn.

    One number is one initial noise for every row: differences between rows are the samplers'.
    """
    import numpy as np

    labels = np.arange(first, first + num_images) % model.num_classes
    images = model.generate(
        num_images,
        labels=labels if row.labelled else None,
        guidance_scale=row.guidance,
        sampler=row.sampler,
        steps=row.steps,
        spacing=row.spacing,
        eta=row.eta,
        seed=first,
        batch_size=min(BATCH_SIZE, num_images),
    )
    return images, labels


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
    add("--threads", type=_positive, help="of TensorFlow and PyTorch (default: theirs)")
    return parser.parse_args()


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an int of at least 1, got {text}")
    return int(text)


def main():
    args = parse_args()
    if args.threads:  # libraries read this when they are imported
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(args.threads)
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
    model = open_model(args.model)
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
    from quality_report import report

    parts = plan_rows(model.diffusion.timesteps)
    counts = {part: args.num_curve for part in PARTS} | {"headline": args.num_images}
    wanted = {}
    for part in PARTS:
        if args.part in (part, "all"):
            for row in parts[part]:
                wanted[row] = max(counts[part], wanted.get(row, 0))
    wanted = dict(sorted(wanted.items(), key=lambda item: item[0].evaluations * item[1]))

    checksum = zlib.crc32(file_of(args.model).read_bytes())
    samples = Samples(output / f"samples_{checksum:08x}", args.chunk_size)
    samples.make(model, wanted)
    with samples.claim("report") as mine:
        if samples.missing(wanted) or not mine:
            print("Another process has yet to finish. It will report.")
            return
        report(model, samples, parts, counts, output, args.num_drawings)


if __name__ == "__main__":
    main()
