"""What makes digits better? One short training for each choice, and the distance of its samples.

    python benchmarks/digit_choices.py
    python benchmarks/digit_choices.py --choices "as it is" "predicts noise" --threads 1

Every training is examples/configs/mnist.yaml with one thing changed, but on the first 20 000 digits
and for 4 epochs: enough to tell the choices apart, not for good digits. "another seed" changes
nothing else, so what it moves is chance. Samples take 25 steps of DPM-Solver++ with η = 1, and are
compared with the 60 000 training images in the features of three LeNets, by class and without
labels; the test images are measured likewise.

Trainings and samples are kept in the output folder, and the command goes on where it was stopped.
Two processes may share it if they are given different choices; the one that finds all of them
finished writes choices.md and choices.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from threads import add_threads_option, limit_threads

ROOT = Path(__file__).parents[1]
SHORT = {
    "data.num_images": 20000,
    "data.validation_split": "null",
    "training.epochs": 4,
    "training.warmup_steps": 200,
    "sampling.every": 4,
}
CHOICES = {
    "as it is": {},
    "another seed": {"training.seed": 1},
    "predicts noise": {"diffusion.prediction": "noise"},
    "predicts x₀": {"diffusion.prediction": "start"},
    "linear schedule": {"diffusion.schedule": "linear"},
    "linear schedule, predicts noise (Ho et al.)": {
        "diffusion.schedule": "linear",
        "diffusion.prediction": "noise",
    },
    "min-SNR-γ weights, γ = 5": {"training.min_snr_gamma": 5},
    "learning rate 5e-4": {"training.learning_rate": 5e-4},
    "learning rate constant": {"training.learning_rate_decay": "constant"},
    # Not 0.9995: averages begin short, and those of 1 250 steps are no longer than with 0.993.
    "no averages": {"training.ema_decay": 0.0},
    "averages of 0.9": {"training.ema_decay": 0.9},
    "no label ever hidden": {"training.label_dropout": 0.0},
    "three labels in ten hidden": {"training.label_dropout": 0.3},
    "no attention": {"network.has_attention": "[false, false, false]"},
    "wide at the top": {"network.widths": "[32, 48, 40]"},
    "wide at the bottom": {"network.widths": "[16, 32, 64]"},
    "padded to 32x32": {"data.image_size": 32},
}
BORDER = 2  # black pixels on each side of a padded digit
SAMPLING = {"sampler": "dpm_solver++", "eta": 1.0, "steps": 25}
KINDS = {"by class": True, "without labels": False}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--choices", nargs="+", metavar="CHOICE", help="only these (default: all)")
    add("--num_samples", type=int, default=2000, help="of each kind (default: %(default)s)")
    add("--lenet_seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add_threads_option(parser)
    add("--train", nargs=argparse.REMAINDER, default=[], help="comes last: options of mnist.py")
    add("--output", type=Path, default=Path("runs/digit_choices"), help="(default: %(default)s)")
    args = parser.parse_args()
    args.choices = args.choices or [*CHOICES]
    if unknown := [name for name in args.choices if name not in CHOICES]:
        parser.error(f"CHOICE must be one of {', '.join(CHOICES)}, got {unknown[0]!r}")
    if args.num_samples < 100:  # more than there are features
        parser.error(f"--num_samples must be at least 100, got {args.num_samples}")
    return args


def train(name, folder, more):
    """Runs examples/flowers.py; a second time it goes on, or finds everything done."""
    options = [f"--{key}={value}" for key, value in {**SHORT, **CHOICES[name]}.items()]
    command = ["examples/flowers.py", "--config", "examples/configs/mnist.yaml"]
    command += ["--run", folder.absolute(), *options, *more]
    begin = time.perf_counter()
    if subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode:
        sys.exit(f"error: the training of {name!r} failed; what it said is above.")
    return time.perf_counter() - begin


def measure(folder, num_samples, distance):
    """Samples of a finished run, drawn or read, and how far they are."""
    from keras_ddpm.checkpoints import open_model
    from keras_ddpm.evaluation import draw_samples

    model, row = open_model(folder / "final.keras"), {}
    for kind, labelled in KINDS.items():
        samples, _ = draw_samples(
            model, folder / kind.replace(" ", "_"), num_samples, labelled, **SAMPLING
        )
        if samples.shape[1] == 28 + 2 * BORDER:
            samples = samples[:, BORDER:-BORDER, BORDER:-BORDER]
        row[kind] = distance(samples)
    return {"parameters": model.network.count_params(), **row}


def make_distance(seeds, cache):
    """A function from digits to mean and spread of their Fréchet distance, and the test images."""
    import numpy as np

    from keras_ddpm.data import load_images
    from keras_ddpm.metrics import LeNetFeatures, frechet_distance, statistics_of

    digits, test = (
        load_images("mnist", split, image_size=28, channels=1) for split in ("train", "test")
    )
    lenets = [LeNetFeatures(digits.images, digits.labels, seed, cache) for seed in seeds]
    references = [statistics_of(lenet, digits.images) for lenet in lenets]

    def distance(images):
        found = [frechet_distance(net(images), ref) for net, ref in zip(lenets, references)]
        return [float(np.mean(found)), float(np.std(found))]

    shuffled = np.random.default_rng(0).permutation(test.images)  # the first ones are the clearest
    return distance, shuffled


def describe(rows, args):
    lines = [
        f"`python benchmarks/digit_choices.py --num_samples {args.num_samples}`",
        "",
        f"| n = {args.num_samples} | parameters | {' | '.join(KINDS)} | seconds of training |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in (row[kind] for kind in KINDS)]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        lines.append(f"| {name} | {row.get('parameters', '')} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines) + "\n"


def main():
    args = parse_args()
    limit_threads(args.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    args.output.mkdir(parents=True, exist_ok=True)
    distance, test_images = make_distance(args.lenet_seeds, args.output / "features")
    folders = {name: args.output / f"{i:02d}" for i, name in enumerate(CHOICES)}
    for name in args.choices:
        path = folders[name] / "choice.json"
        if not path.exists():
            seconds = train(name, folders[name], args.train)
            row = measure(folders[name], args.num_samples, distance)
            path.write_text(json.dumps({"choice": name, **row, "seconds": seconds}) + "\n")
        print(path.read_text(), flush=True)
    paths = {name: folder / "choice.json" for name, folder in folders.items()}
    rows = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    rows["the test images"] = dict.fromkeys(KINDS, distance(test_images[: args.num_samples]))
    (args.output / "choices.json").write_text(json.dumps(rows, indent=1) + "\n")
    (args.output / "choices.md").write_text(describe(rows, args))
    print((args.output / "choices.md").read_text())


if __name__ == "__main__":
    main()
