"""Measures how good a model is: distances to data, and copies of training images."""

import json
import sys

import keras

from keras_ddpm.files import atomic_write
from keras_ddpm.metrics import LeNetFeatures
from keras_ddpm.plotting import image_grid, save_image, visible_scale
from keras_ddpm.validation import check_choice, check_int, check_number
from keras_ddpm_cli import measure
from keras_ddpm_cli.common import load_image_model, output_folder, user_errors
from keras_ddpm_cli.parsers import sampling_options

PARTS = ("distance", "nearest")
FEATURES = ("lenet", "pixels")
MAX_NEAREST_IMAGES = 20_000  # among which nearest ones are searched by default
MAX_PIXELS = 4096  # a larger covariance takes hours
MIN_IMAGES = 3  # that the kernel distance takes
SHOWN = 64  # samples in the picture


def run(args):
    """Evaluates as the command line says."""
    with user_errors():
        Evaluation(args).run()


class Evaluation:
    """A model, the images to compare it with, and the parts.

    Wrong arguments are found when it is made.
    """

    def __init__(self, args):
        self.args = args
        for part in args.parts or ():
            check_choice("parts", part, PARTS)
        check_choice("features", args.features, FEATURES)
        for name, minimum in (("num_images", MIN_IMAGES), ("seed", 0), ("batch_size", 1)):
            check_int(name, getattr(args, name), minimum)
        for seed in args.lenet_seeds:
            check_int("lenet_seeds", seed, minimum=0)
        if args.validation_fraction is not None:
            check_number("validation_fraction", args.validation_fraction, "(0, 1)")
            if args.test_split is not None:
                raise ValueError("give --test_split or --validation_fraction, not both.")

        self.model = load_image_model(args.model)
        self.check_sampling()
        self.folder = output_folder(args.output)
        names = {"name": "--data", "num_images": "--data_images", "split": "--train_split"}
        names |= {name: f"the model's {name}" for name in ("image_size", "channels")}
        with user_errors(**names):
            self.train, self.test, self.held_out = measure.load_both(
                args.data,
                args.train_split,
                args.test_split,
                args.validation_fraction,
                shape=self.model.sample_shape,
                data_dir=args.data_dir,
                num_images=args.data_images,
            )
        few = len(self.train) <= MAX_NEAREST_IMAGES
        self.parts = args.parts or ["distance", *(["nearest"] if few else [])]
        self.check_data()

    def check_sampling(self):
        options = sampling_options(self.args)
        self.scale, self.seed = options.pop("guidance_scale"), options.pop("seed")
        self.sampler = self.model.choose_sampler(**options)
        labels = None if self.model.num_classes is None else 0
        self.model.check_request(1, labels, self.scale, self.sampler)

    def check_data(self):
        """Whether these images can be compared with samples of this model."""
        args, model, train = self.args, self.model, self.train
        if min(len(train), len(self.test)) < MIN_IMAGES:
            raise ValueError(
                f"{args.data} has {len(train)} training and {len(self.test)} test images, but at "
                f"least {MIN_IMAGES} of each are needed."
            )
        if train.labels is not None and model.num_classes is not None:
            names = list(train.class_names or ())
            if train.num_classes != model.num_classes or (model.class_names or names) != names:
                raise ValueError(
                    f"data={args.data}: its {train.num_classes} classes {names[:3]}… are not the "
                    f"{model.num_classes} of {args.model!r}, {(model.class_names or [])[:3]}…"
                )
        features, size = "distance" in self.parts and args.features, train.images[0].size
        if features == "lenet" and train.labels is None:
            raise ValueError(
                f"features=lenet needs labels, and {args.data} has none: use --features pixels."
            )
        if features == "pixels" and size > MAX_PIXELS:
            raise ValueError(f"features=pixels: {size} in an image are more than {MAX_PIXELS}.")

    def run(self):
        """Measures the parts, writes the results, and prints them."""
        print(f"results.md, results.json and pictures go to {self.folder}", flush=True)
        results = {
            "options": vars(self.args),
            "versions": {"keras": keras.__version__, "python": sys.version.split()[0]},
            "backend": keras.backend.backend(),
            "images": f"{len(self.train)} for training, {len(self.test)} for test: {self.held_out}",
            "parts": {},
        }
        # Before the samples: this fails without a network, or on images that are too small.
        extractors = self.make_extractors() if "distance" in self.parts else {}
        samples, results["samples"] = self.draw()
        images = self.train.images, self.test.images
        for part in self.parts:
            if part == "distance":
                rows = measure.measure_distances(extractors, samples, *images, seed=self.seed)
            else:
                rows, grid = measure.measure_memorisation(samples, *images)
                save_image(self.folder / "nearest.png", grid, visible_scale(grid))
            results["parts"][part] = rows
            with atomic_write(self.folder / "results.json") as partial:
                partial.write_text(json.dumps(results, indent=1) + "\n")
            with atomic_write(self.folder / "results.md") as partial:
                partial.write_text(measure.describe(results))
        print((self.folder / "results.md").read_text())
        print(self.folder / "results.md", self.folder / "results.json", sep="\n")

    def make_extractors(self):
        """Functions from images to features, by name."""
        if self.args.features == "pixels":
            return {"pixels": lambda images: images.reshape(len(images), -1) / 127.5 - 1}
        cache, seeds = self.folder / "features", self.args.lenet_seeds
        print(f"lenet: {len(seeds)} networks are trained, or read from {cache}", flush=True)
        data = self.train.images, self.train.labels
        return {f"lenet {seed}": LeNetFeatures(*data, seed, cache) for seed in seeds}

    def draw(self):
        """The samples, and how they were made. They are kept for the next evaluation."""
        how = {"sampler": repr(self.sampler), "guidance_scale": self.scale, "seed": self.seed}
        config, weights = self.model.diffusion.get_config(), self.model.ema_network.get_weights()
        folder = measure.digest(json.dumps([how, config]), *weights)
        images, seconds = measure.draw_samples(
            self.model,
            self.folder / "samples" / folder,
            self.args.num_images,
            seed=self.seed,
            batch_size=self.args.batch_size,
            sampler=self.sampler,
            guidance_scale=self.scale,
        )
        grid = image_grid(images[:SHOWN])
        save_image(self.folder / "samples.png", grid, visible_scale(grid))
        return images, {**how, "seconds an image": round(seconds, 4), "folder": folder}
