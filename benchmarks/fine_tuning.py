"""Measures how many steps fine-tuning saves, with all weights and with LoRA.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py

A model of 200 images of classes that the preset drawn_flowers_16 has not seen, 16x16, starts from
the preset, from the preset with LoRA, or from random weights. After some numbers of steps the
figure is the Fréchet distance of its samples to further images of these classes, in the features
of a LeNet-5 trained on a larger set of the same kind: compare within one set.

- "drawn": drawn flowers whose red, green and blue are exchanged.
- "photographs": five classes of flowers102_64, in the folder that KERAS_DDPM_DATA names.

Writes fine_tuning.json, fine_tuning.md, fine_tuning.png (the curves) and samples.png (a row of
samples for each start, from the last number of steps, below a row of training images).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
from jsonargparse.typing import PositiveInt
from matplotlib.figure import Figure

from keras_ddpm import DiffusionModel, ImageDataset, UNet, image_grid, load_images, save_image
from keras_ddpm.data import draw_flowers
from keras_ddpm.files import make_writable
from keras_ddpm.metrics import LeNetFeatures, frechet_distance
from keras_ddpm.plotting import visible_scale

PRESET, NUM_IMAGES, BATCH_SIZE = "drawn_flowers_16", 200, 16
RANK = 8
# The learning rate of each start; that of "scratch" is the one of drawn_flowers_16.yaml.
STARTS = {"preset": 1e-3, "LoRA": 3e-4, "scratch": 2e-3}
SPECIES = ("51", "77", "46", "89", "73")  # the largest classes


def drawn():
    """Images and labels, to train on and to compare with; and a larger set for the features."""
    kinds = np.array([1, 3, 5, 7, 17, 19])  # red, yellow and pink, with 5 and 8 petals
    labels = np.arange(NUM_IMAGES + 2000) % len(kinds)
    images, _ = draw_flowers(len(labels), image_size=16, seed=11, labels=kinds[labels])
    images = images[..., [2, 0, 1]]  # red becomes green, yellow turquoise
    features, feature_labels = draw_flowers(4000, image_size=16, seed=12)
    return _parts(images, labels), (features[..., [2, 0, 1]], feature_labels)


def photographs():
    """The same, of photographs."""
    sets = [load_images("flowers102_64", split, image_size=16) for split in ("train", "valid")]
    names = list(sets[0].class_names)
    kinds = [names.index(name) for name in SPECIES]
    images = np.concatenate([one.images for one in sets])
    all_labels = np.concatenate([one.labels for one in sets])
    order = np.random.default_rng(0).permutation(len(images))
    order = order[np.isin(all_labels[order], kinds)]
    labels = np.searchsorted(np.sort(kinds), all_labels[order])
    return _parts(images[order], labels), (images, all_labels)


def _parts(images, labels):
    labels = labels.astype("int32")
    return (images[:NUM_IMAGES], labels[:NUM_IMAGES]), images[NUM_IMAGES:]


SETS = {"drawn": drawn, "photographs": photographs}


def make(start, num_classes):
    keras.utils.set_random_seed(0)
    model = DiffusionModel.from_preset(PRESET).adapt(num_classes=num_classes, seed=0)
    if start == "scratch":
        network = UNet.from_config(model.network.get_config())
        model = DiffusionModel(network, model.diffusion, min_snr_gamma=5, seed=0)
    if start == "LoRA":
        model.enable_lora(RANK)
    model.compile(keras.optimizers.Adam(STARTS[start], global_clipnorm=1.0))
    return model


def measure(name, args, results, path):
    """The distances of one set; returns training images and samples."""
    ((images, labels), others), larger = SETS[name]()
    lenet = LeNetFeatures(*larger, cache=args.output)
    reference = lenet(others)
    num_classes = int(labels.max()) + 1
    results["sets"][name] = {"training_images": frechet_distance(lenet(images), reference)}
    rows = [images[:16]]
    for start in STARTS:
        model = make(start, num_classes)
        trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
        dataset = ImageDataset(images, labels, batch_size=BATCH_SIZE, flip=False, seed=0)
        results["sets"][name][start] = found = {"trained_weights": trained, "steps": {}}
        steps, began = 0, time.perf_counter()
        for goal in args.steps:
            while steps < goal:
                for i in range(min(len(dataset), goal - steps)):
                    model.train_on_batch(*dataset[i])
                    steps += 1
                dataset.on_epoch_end()
            seconds = time.perf_counter() - began
            classes = np.arange(args.num_images) % num_classes
            samples = model.generate(labels=classes, sampler="dpm_solver++", steps=10, seed=0)
            distance = frechet_distance(lenet(samples), reference)
            found["steps"][goal] = {"frechet": distance, "seconds": seconds}
            print(name, start, goal, f"{distance:.3f}, {seconds:.0f} s", flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
            began = time.perf_counter() - seconds
        rows.append(np.asarray((samples[:16] + 1) * 127.5).clip(0, 255).astype("uint8"))
    return np.concatenate(rows)


def describe(results):
    """The distances as a Markdown table."""
    steps = results["steps"]
    lines = [f"| set | start | trained weights | {' | '.join(map(str, steps))} steps |"]
    lines.append("|---" * (3 + len(steps)) + "|")
    for name, found in results["sets"].items():
        for start in STARTS:
            numbers = [f"{one['frechet']:.2f}" for one in found[start]["steps"].values()]
            trained = f"{found[start]['trained_weights']:,}"
            lines.append(f"| {name} | {start} | {trained} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def plot(results, path):
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(results["sets"])), results["sets"].items()
    ):
        for start in STARTS:
            values = [one["frechet"] for one in found[start]["steps"].values()]
            axes.plot(results["steps"], values, marker="o", label=start)
        axes.set(xscale="log", yscale="log", title=name, xlabel="steps")
        axes.set_ylabel("Fréchet distance")
        axes.set_xticks(results["steps"], results["steps"])
        axes.minorticks_off()
        axes.legend()
    figure.savefig(path, dpi=100)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=list(SETS))
    add("--steps", nargs="+", type=PositiveInt, default=[50, 100, 200, 400])
    add("--num_images", type=PositiveInt, default=500, help="samples for each distance")
    add("--output", type=Path, default=Path("runs/fine_tuning"), help="default: %(default)s")
    return parser.parse_args()


def main():
    args = parse_args()
    make_writable(args.output)
    results = {
        "command": f"python benchmarks/fine_tuning.py {' '.join(sys.argv[1:])}".strip(),
        "samples": args.num_images,
        "steps": args.steps,
        "sets": {},
    }
    for name in args.sets:
        pictures = measure(name, args, results, args.output / "fine_tuning.json")
        grid = image_grid(pictures, columns=16)
        save_image(args.output / f"samples_{name}.png", grid, visible_scale(grid))
    (args.output / "fine_tuning.md").write_text(describe(results))
    plot(results, args.output / "fine_tuning.png")
    print(describe(results))


if __name__ == "__main__":
    main()
