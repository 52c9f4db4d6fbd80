"""Distils a preset to few steps, and draws a plot of quality against evaluations of the network.

    python benchmarks/few_steps.py mnist_28 --data mnist --steps 4 --epochs 1

The Fréchet distance of samples to the training images, in the features of a LeNet-5 trained on the
same set: of the preset with two samplers, and of the student of `distill` after each part of its
training. Writes a table, JSON, the plot and the preset of the student to the output folder.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from keras.optimizers.schedules import CosineDecay

from keras_ddpm import (
    DDPM,
    DiffusionModel,
    DPMSolverPlusPlus,
    FusedAdam,
    ImageDataset,
    distill,
    image_grid,
    load_images,
    save_image,
)
from keras_ddpm.files import make_writable
from keras_ddpm.metrics import LeNetFeatures, frechet_distance

EVALUATIONS = (2, 4, 8, 16, 32)


def draw(model, num_images, sampler=None):
    labels = None if model.num_classes is None else np.arange(num_images) % model.num_classes
    options = {"seed": 2, "batch_size": 100, "progress": False}
    return model.generate(num_images, labels, sampler=sampler, **options)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("preset")
    add("--data", required=True, help="the set that it was trained on, as for `load_images`")
    add("--split", default="train")
    add("--steps", type=PositiveInt, default=4, help="of the student (default: 4)")
    add("--epochs", type=PositiveInt, default=1, help="(default: 1)")
    add("--parts", type=PositiveInt, default=4, help="measured in each epoch (default: 4)")
    add("--batch_size", type=PositiveInt, default=64, help="(default: 64)")
    add("--learning_rate", type=PositiveFloat, default=1e-4, help="(default: 1e-4)")
    add("--num_images", type=PositiveInt, default=2000, help="(default: 2000)")
    add("--seed", type=NonNegativeInt, default=0, help="(default: 0)")
    add("--output", type=Path, default=Path("runs/few_steps"), help="(default: %(default)s)")
    args = parser.parse_args()
    output = make_writable(args.output)
    model = DiffusionModel.from_preset(args.preset)
    size, channels = model.sample_shape[:2], model.sample_shape[2]
    count = {"num_images": 20000} if args.data == "drawn_flowers" else {}
    images = load_images(args.data, args.split, size, channels, **count)
    lenet = LeNetFeatures(images.images, images.labels, cache=output / "lenet")
    reference = lenet(images.images)
    rows = []

    def measure(name, evaluations, one, sampler=None):
        found = draw(one, args.num_images, sampler)
        rows.append((name, evaluations, frechet_distance(lenet(found), reference)))
        print("{}, {} evaluations: {:.3f}".format(*rows[-1]), flush=True)
        return found

    for n in EVALUATIONS:
        measure("DPM-Solver++, η = 1", n, model, DPMSolverPlusPlus(n, eta=1.0))
        measure("DDPM", n, model, DDPM(n))

    student = distill(model, args.steps, ema_decay=0.995, seed=args.seed)
    total = args.epochs * (len(images) // args.batch_size)
    rate = CosineDecay(0.0, total - total // 20, 0.0, "rate", args.learning_rate, total // 20)
    student.compile(FusedAdam(rate, beta_1=0.0, beta_2=0.99, global_clipnorm=1.0))
    kept = images if model.num_classes else images.images
    dataset = ImageDataset(kept, batch_size=args.batch_size, flip=False, seed=args.seed)
    done = 0
    for part in range(args.epochs * args.parts):
        until = total * (part + 1) // (args.epochs * args.parts)
        student.fit(dataset, steps_per_epoch=until - done, verbose=2)
        done = until
        found = measure(f"student after {done} batches", args.steps, student)
        save_image(output / f"{done}.png", image_grid(found[:60], columns=10), 2)
    distilled = student.distilled()
    distilled.save_to_preset(output / f"{args.preset}_{args.steps}_steps")

    (output / "few_steps.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in ("DDPM", "DPM-Solver++, η = 1"):
        axes.plot(EVALUATIONS, [d for n, _, d in rows if n == name], "o-", label=name)
    axes.plot([args.steps], [rows[-1][2]], "*", markersize=14, label="distilled")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(EVALUATIONS, EVALUATIONS)
    axes.set_yticks((3, 5, 10, 20, 40), (3, 5, 10, 20, 40))
    axes.set(xlabel="evaluations of the network", ylabel="Fréchet distance")
    axes.minorticks_off()
    axes.legend()
    figure.savefig(output / "few_steps.png", dpi=120)


if __name__ == "__main__":
    main()
