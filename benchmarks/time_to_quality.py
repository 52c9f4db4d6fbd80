"""Measures how good samples are after some minutes of training, beside other packages.

    python benchmarks/time_to_quality.py --sets drawn_flowers mnist --minutes 1 3 10

Each run trains for that long, from its first step on, in a process of its own, and then draws
samples with the sampler that is good for it. The time is that of the processor, divided by the
number of threads, so that other work beside it does not count. The learning rate falls to 0 at the
end of the time.
The figure is the Fréchet distance of the samples to the training images, in the features of a
LeNet-5 that is trained on the same set: compare within one set and number of samples.

- "keras_ddpm": the configuration that the commands have for the set, without labels.
- "diffusers": the recipe of their example train_unconditional.py, with a `UNet2DModel` of about as
  many parameters, or with another learning rate: "diffusers 2e-3".
- "lucidrains": `denoising_diffusion_pytorch` with the values of its Trainer, or "lucidrains 1e-3".

`mnist` and `flowers102_64`, a folder of photographs, must lie in the folder that KERAS_DDPM_DATA
names. Writes quality.json, quality.md, quality.png and samples.png; runs that quality.json has are
not run again, so that one can add to a table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveFloat, PositiveInt
from matplotlib.figure import Figure

from keras_ddpm import image_grid, load_images, save_image
from keras_ddpm.data import draw_flowers
from keras_ddpm.files import make_writable
from keras_ddpm.metrics import LeNetFeatures, frechet_distance
from keras_ddpm.plotting import visible_scale

# The options of `load_images`, the split that is held out, and the configuration.
SETS = {
    "drawn_flowers": ({"image_size": 32, "num_images": 4096}, None, "embedded"),
    "mnist": ({"image_size": 28, "channels": 1}, "test", "mnist"),
    "flowers102_64": ({"image_size": 32}, "valid", "embedded"),
}
CONTESTANTS = ("keras_ddpm", "diffusers", "diffusers 2e-3", "lucidrains", "lucidrains 1e-3")


def load(name, split="train"):
    options, _, _ = SETS[name]
    if name == "drawn_flowers" and split != "train":
        return draw_flowers(2000, image_size=32, seed=104)
    images = load_images(name, split, **options)
    return images.images, images.labels


def run(case, args):
    """Trains and draws in a process of its own. Returns its facts; the samples are in a file."""
    package, *rate = case["contestant"].split()
    config = SETS[case["set"]][2]
    call = {**case, "config": config, "learning_rate": float(rate[0]) if rate else None}
    call |= {
        "count": args.num_images,
        "threads": args.threads,
        "samples": str(sample_file(case, args)),
    }
    if not (data := args.output / f"{case['set']}.npz").exists():
        np.savez(data, images=load(case["set"])[0])
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "KERAS_BACKEND": args.backend}
    folder = Path(__file__).parent
    worker = [args.peer_python, folder / "quality_peers.py", package]
    if package == "keras_ddpm":
        worker = [sys.executable, folder / "quality_ours.py"]
    done = subprocess.run(
        [*worker, data, json.dumps(call)], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{case} failed.")
    return json.loads(done.stdout.splitlines()[-1])


def sample_file(case, args):
    name = "_".join(str(value).replace(" ", "_") for value in case.values())
    return args.output / f"{name}.npz"


class Judge:
    """The distance of images to those of a set."""

    def __init__(self, name, folder):
        images, labels = load(name)
        self.lenet = LeNetFeatures(images, labels, cache=folder / "lenet")
        self.features = self.lenet(images)

    def __call__(self, images):
        return frechet_distance(self.lenet(images), self.features)


def describe(results):
    """The medians over seeds as a table in Markdown."""
    lines = [f"`{results['command']}`, {results['samples']} samples, {results['threads']} threads"]
    for name, floor in results["held_out"].items():
        rows = group(results, name)
        minutes = sorted({minutes for row in rows.values() for minutes in row})
        lines += ["", f"### {name} (held out: {floor:.1f})", ""]
        lines += [f"| | {' | '.join(f'{m:g} min' for m in minutes)} | parameters | images/s |"]
        lines += ["|---" * (len(minutes) + 3) + "|"]
        for contestant, row in rows.items():
            cells = [cell(row.get(m)) for m in minutes]
            facts = next(iter(row.values()))[0]
            cells += [f"{facts['parameters']:,}", f"{facts['images_per_second']:.0f}"]
            lines.append(f"| {contestant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(runs):
    if not runs:
        return ""
    distances = sorted(run["frechet"] for run in runs)
    spread = f" ({distances[0]:.1f} to {distances[-1]:.1f})" if len(distances) > 1 else ""
    return f"{statistics.median(distances):.1f}{spread}"


def group(results, name):
    """`{contestant: {minutes: [run, ...]}}` of a set."""
    rows = {}
    for one in results["runs"]:
        if one["set"] == name:
            rows.setdefault(one["contestant"], {}).setdefault(one["minutes"], []).append(one)
    return rows


def plot(results, path):
    """The distance against the minutes, one panel for each set."""
    figure = Figure(figsize=(3.6 * len(results["held_out"]), 3.4), layout="constrained")
    panels = figure.subplots(1, len(results["held_out"]), squeeze=False)[0]
    for axes, (name, floor) in zip(panels, results["held_out"].items()):
        for contestant, row in group(results, name).items():
            minutes = sorted(row)
            medians = [statistics.median(run["frechet"] for run in row[m]) for m in minutes]
            axes.loglog(minutes, medians, marker="o", label=contestant)
        axes.axhline(floor, color="black", linestyle=":", label="images held out")
        axes.set(title=name, xlabel="minutes of training")
        ticks = sorted({one["minutes"] for one in results["runs"]})
        axes.set_xticks(ticks, labels=[f"{m:g}" for m in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("Fréchet distance")
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def show_samples(results, args, path):
    """The first samples of each contestant after the longest time, a column for each set."""
    minutes, shape = max(args.minutes), (len(args.contestants), len(args.sets))
    figure = Figure(figsize=(3.4 * shape[1], 2.1 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        name, contestant = args.sets[column], args.contestants[row]
        case = {"set": name, "contestant": contestant, "minutes": minutes, "seed": args.seeds[0]}
        [found] = [one for one in results["runs"] if case.items() <= one.items()]
        grid = image_grid(np.load(sample_file(case, args))["images"][:32], columns=8)
        axes.imshow(grid, cmap="gray", interpolation="nearest")
        axes.set(xticks=[], yticks=[], xlabel=f"Fréchet distance {found['frechet']:.0f}")
        axes.set_frame_on(False)
        if column == 0:
            axes.set_ylabel(contestant)
        if row == 0:
            axes.set_title(name)
    figure.savefig(path, dpi=110)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=[*SETS])
    add("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS[:3]])
    add("--minutes", nargs="+", type=PositiveFloat, default=[1, 3, 10, 30])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--num_images", type=PositiveInt, default=2000, help="samples of a run (default: 2000)")
    add("--threads", type=PositiveInt, default=2, help="of each process (default: 2)")
    add("--backend", choices=("tensorflow", "jax", "torch"), default="torch", help="of keras_ddpm")
    add("--peer_python", default=sys.executable, help="interpreter that has the other packages")
    add("--output", type=Path, default=Path("runs/quality"), help="folder (default: %(default)s)")
    return parser.parse_args()


def main():
    args = parse_args()
    make_writable(args.output)
    path = args.output / "quality.json"
    results = {"held_out": {}, "runs": []}
    if path.exists():
        results = json.loads(path.read_text())
    results |= {
        "command": f"python benchmarks/time_to_quality.py {' '.join(sys.argv[1:])}".strip(),
        "samples": args.num_images,
        "threads": args.threads,
    }
    for name in args.sets:
        judge = Judge(name, args.output)
        held_out = load(name, SETS[name][1])[0][: args.num_images]
        results["held_out"][name] = judge(held_out)
        names = ("set", "contestant", "minutes", "seed")
        for seed in args.seeds:
            for minutes in args.minutes:
                for contestant in args.contestants:
                    case = dict(zip(names, (name, contestant, minutes, seed)))
                    if any(case.items() <= one.items() for one in results["runs"]):
                        continue
                    facts = run(case, args)
                    images = np.load(sample_file(case, args))["images"]
                    results["runs"].append({**case, **facts, "frechet": judge(images)})
                    print(results["runs"][-1], flush=True)
                    grid = image_grid(images[:48], columns=12)
                    picture = sample_file(case, args).with_suffix(".png")
                    save_image(picture, grid, visible_scale(grid))
                    path.write_text(json.dumps(results, indent=1) + "\n")
    (args.output / "quality.md").write_text(describe(results))
    plot(results, args.output / "quality.png")
    show_samples(results, args, args.output / "samples.png")
    print(describe(results))


if __name__ == "__main__":
    main()
