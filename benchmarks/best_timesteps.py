"""Searches the timesteps with which few steps of a sampler draw the best samples of a model.

    python benchmarks/best_timesteps.py mnist_28 --data mnist --steps 8 --store

What is made smaller is the Fréchet distance of samples to the training images, in the features of a
LeNet-5 trained on the same set, always from the same noise. The search begins with the best of some
curves t(i) = last + (T − 1 − last) (1 − i / (n − 1))^power and of some η, and then moves one
timestep after the other, as long as this helps. Other noise, and more of it, then gives the figures
that are printed: those of the search itself are too good. `--store` writes the sampler into the
preset, whose `generate` uses it from then on.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt

from keras_ddpm import DDPM, DiffusionModel, DPMSolverPlusPlus, load_images
from keras_ddpm.files import make_writable
from keras_ddpm.metrics import LeNetFeatures, frechet_distance
from keras_ddpm.presets import CONFIG, find_preset
from keras_ddpm.samplers import sampler_config

BLOCKS = 20  # of the jackknife


class Search:
    """The distances of samplers, each computed once."""

    def __init__(self, model, features, reference, num_images, seed):
        self.model, self.features, self.reference = model, features, reference
        self.num_images, self.seed, self.known = num_images, seed, {}

    def draw(self, sampler, num_images, seed):
        classes = self.model.num_classes
        labels = None if classes is None else np.arange(num_images) % classes
        return self.model.generate(
            num_images, labels, sampler=sampler, seed=seed, batch_size=100, progress=False
        )

    def distance(self, sampler):
        if sampler not in self.known:
            found = self.features(self.draw(sampler, self.num_images, self.seed))
            self.known[sampler] = frechet_distance(found, self.reference)
            print(f"{self.known[sampler]:.3f} {sampler}", flush=True)
        return self.known[sampler]

    def best(self, samplers):
        return min(samplers, key=self.distance)

    def refine(self, sampler, rounds):
        """Moves each timestep but the first by a third of its distance to its neighbours."""
        for _ in range(rounds):
            before = sampler
            for i in range(1, len(sampler.timesteps)):
                here, higher = sampler.timesteps[i], sampler.timesteps[i - 1]
                lower = [*sampler.timesteps[i + 1 :], -1][0]
                moved = {here + (higher - here) // 3, here - (here - lower) // 3}
                candidates = [sampler]
                for t in moved - {here, higher, lower}:
                    timesteps = [*sampler.timesteps[:i], t, *sampler.timesteps[i + 1 :]]
                    candidates.append(DPMSolverPlusPlus(timesteps=timesteps, eta=sampler.eta))
                sampler = self.best(candidates)
            if sampler == before:
                break
        return sampler


def curves(steps, total):
    """Samplers whose timesteps lie on a curve, and those of the spacing "trailing"."""
    for power in (0.8, 1.0, 1.3):
        for last in (20, 50, 100):
            share = (1 - np.arange(steps) / max(1, steps - 1)) ** power
            timesteps = np.round(last + (total - 1 - last) * share).astype(int)
            yield DPMSolverPlusPlus(timesteps=timesteps.tolist(), eta=1.0)
    yield DPMSolverPlusPlus(steps, spacing="trailing", eta=1.0)


def with_error(features, reference):
    """The distance, and its standard error from a jackknife over blocks of samples."""
    blocks = np.array_split(np.arange(len(features)), BLOCKS)
    without = [frechet_distance(np.delete(features, b, axis=0), reference) for b in blocks]
    return frechet_distance(features, reference), np.sqrt((BLOCKS - 1) * np.var(without))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("preset")
    add("--data", required=True, help="the set that it was trained on, as for `load_images`")
    add("--split", default="train")
    add("--steps", type=PositiveInt, default=8, help="(default: 8)")
    add("--num_images", type=PositiveInt, default=1000, help="in the search (default: 1000)")
    add("--rounds", type=NonNegativeInt, default=1, help="over the timesteps (default: 1)")
    add("--final_images", type=PositiveInt, default=10000, help="of the figures (default: 10000)")
    add("--also", nargs="*", default=[], metavar="STEPS", type=int, help="DDPM with these steps")
    add("--store", action="store_true", help="write the sampler into the preset")
    add("--output", type=Path, default=Path("runs/timesteps"), help="(default: %(default)s)")
    args = parser.parse_args()
    model = DiffusionModel.from_preset(args.preset)
    if args.steps > model.diffusion.timesteps:
        parser.error(f"--steps={args.steps} is more than the {model.diffusion.timesteps} timesteps")
    size, channels = model.sample_shape[:2], model.sample_shape[2]
    count = {"num_images": 20000} if args.data == "drawn_flowers" else {}
    images = load_images(args.data, args.split, size, channels, **count)
    lenet = LeNetFeatures(images.images, images.labels, cache=make_writable(args.output) / "lenet")
    reference = lenet(images.images)
    search = Search(model, lenet, reference, args.num_images, seed=1)
    sampler = search.best(curves(args.steps, model.diffusion.timesteps))
    if sampler.timesteps is None:
        sampler = DPMSolverPlusPlus(timesteps=sampler.plan(model.diffusion).tolist(), eta=1.0)
    sampler = search.best(
        DPMSolverPlusPlus(timesteps=sampler.timesteps, eta=eta) for eta in (1.0, 0.7, 0.4, 0.0)
    )
    sampler = search.refine(sampler, args.rounds)
    results = {}
    rows = {"these timesteps": sampler}
    rows |= {f"trailing, {n} steps": DPMSolverPlusPlus(n, eta=1.0) for n in (args.steps, 50)}
    rows |= {f"ddpm, {n} steps": DDPM(n) for n in args.also}
    for name, one in rows.items():
        features = lenet(search.draw(one, args.final_images, seed=2))
        results[name] = with_error(features, reference)
        print(f"{name}: {results[name][0]:.3f} ± {results[name][1]:.3f}", flush=True)
    results = {"sampler": sampler_config(sampler), "frechet": results}
    (args.output / f"{args.preset}_{args.steps}.json").write_text(json.dumps(results, indent=1))
    if args.store:
        model.sampler = sampler
        copy = model.save_to_preset(args.output / args.preset)
        shutil.copy(copy / CONFIG, find_preset(args.preset))  # and leaves weights and card alone


if __name__ == "__main__":
    main()
