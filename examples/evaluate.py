"""Says how good a model is, in the field's own measures.

    python examples/evaluate.py runs/mnist/final.keras --data mnist --features lenet \\
        --num_images 10000 --steps 50 --guidance_scale 2 --output runs/mnist/evaluation

The model is a .keras file, or a preset: its name or its folder. There are three parts; by default
distance is measured, and nearest if there are at most 20 000 training images:

distance    Fréchet and kernel distance of the samples to the training images; and, to read these
            numbers by, of as many test images and of as much uniform noise.
nearest     the share of samples that are copies of training images, and each of the first samples
            beside the training images nearest to it.
likelihood  the variational bound in bits per dimension, of training and of test images.

Writes results.md, results.json, samples.png, nearest.png and bits.png, and keeps the samples in
samples/. A stopped evaluation goes on where it was, and more samples are added to those there are;
but nothing states the version of the code: after changing a sampler, choose another folder.
The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch.
"""

import argparse
import json
import sys
import time

PARTS = ("distance", "likelihood", "nearest")
FEATURES = ("lenet", "inception", "pixels")
LABELS = ("balanced", "none")
MOST_NEAREST_IMAGES = 20_000  # among which nearest ones are looked for without being asked
MOST_PIXELS = 4096  # a larger covariance takes hours
FEWEST_IMAGES = 3  # that the kernel distance takes
OWN_OPTIONS = ("features", "lenet_seeds", "num_likelihood", "likelihood_timesteps")  # of one part
PICTURES = {"samples": "samples.png", "nearest": "nearest.png", "likelihood": "bits.png"}
SHOWN = 64  # samples in the picture


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="a .keras file, or a preset: its name or its folder")
    add("--data", default="drawn_flowers", help="a name of load_images (default: %(default)s)")
    add("--data_dir", help="where to look for folders and data sets")
    add("--data_images", type=int, help="only the first so many of a split, as data.num_images")
    add("--train_split", help="what the model was trained on (default: the training part)")
    add("--test_split", help='what it was not trained on (default: "test", if there is one)')
    add("--validation_fraction", type=float, help="instead: the share that training held out")
    add("--parts", nargs="+", help=f"some of {', '.join(PARTS)} (default: see above)")
    add("--features", default="lenet", help=f"{', '.join(FEATURES)} (default: %(default)s)")
    add("--lenet_seeds", type=int, nargs="+", default=[0], help="a network each (default: 0)")
    add("--num_images", type=int, default=2000, help="how many samples (default: %(default)s)")
    add("--sampler", default="ddim", help="its name (default: %(default)s)")
    add("--steps", type=int, help="steps of the sampler (default: at most 50)")
    add("--spacing", help="which timesteps to visit (default: the sampler's)")
    add("--eta", type=float, default=0.0, help="fresh noise, 0 to 1 (default: 0)")
    add("--labels", help="balanced: classes in turn, the default with classes; or none")
    add("--guidance_scale", type=float, default=1.0, help="push towards the labels (default: 1)")
    add("--seed", type=int, default=0, help="of all noise (default: 0)")
    add("--batch_size", type=int, default=100, help="samples in memory (default: %(default)s)")
    add("--num_likelihood", type=int, default=256, help="images of each kind (default: 256)")
    add("--likelihood_timesteps", type=int, default=100, help="how many t (default: 100)")
    add("--output", default="evaluation", help="folder (default: %(default)s)")
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        paths = Evaluation(args).run()
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*paths, sep="\n")


def check_numbers(args):
    """What can be found out without the model and the data."""
    from keras_ddpm.validation import check_choice, check_positive_int

    for part in args.parts or ():
        check_choice("--parts", part, PARTS)
    check_choice("--features", args.features, FEATURES)
    if args.labels is not None:
        check_choice("--labels", args.labels, LABELS)
    minima = {"num_images": FEWEST_IMAGES, "likelihood_timesteps": 2, "seed": 0}
    for name in (*minima, "batch_size", "num_likelihood"):
        check_positive_int(f"--{name}", getattr(args, name), minima.get(name, 1))
    if args.test_split is not None and args.validation_fraction is not None:
        raise ValueError("give --test_split or --validation_fraction, not both.")


def plan_sampling(args, model):
    """All that the samples of a model depend on, if it can be sampled like this."""
    from keras_ddpm.samplers import make_sampler, plan_timesteps

    if not model.is_image:
        raise ValueError(f"{args.model!r} generates points, not images.")
    has_classes = model.num_classes is not None
    args.labelled = has_classes if args.labels is None else args.labels == "balanced"
    if args.labelled and not has_classes:
        raise ValueError(f"--labels balanced, but {args.model!r} has no classes.")
    sampler = make_sampler(args.sampler, args.eta)
    args.spacing = args.spacing or sampler.spacing
    timesteps = plan_timesteps(model.diffusion, sampler, args.steps, spacing=args.spacing)
    args.steps = len(timesteps)
    model.sampling_conditions(0 if args.labelled else None, args.guidance_scale, args.num_images)
    names = ("sampler", "spacing", "steps", "eta", "guidance_scale", "labelled", "seed")
    return {name: getattr(args, name) for name in names}


def check_data(args, model, train, test):
    """Whether these images can be compared with samples of this model."""
    if min(len(train), len(test)) < FEWEST_IMAGES:
        raise ValueError(
            f"{args.data} has {len(train)} training and {len(test)} test images, but at least "
            f"{FEWEST_IMAGES} of each are needed."
        )
    if train.labels is not None and model.num_classes is not None:
        classes = len(train.label_names or range(train.labels.max() + 1))
        if classes != model.num_classes:
            raise ValueError(
                f"{args.model!r} has {model.num_classes} classes, but {args.data} has {classes}."
            )
        for ours, theirs in zip(model.label_names or (), train.label_names or ()):
            if ours != theirs:
                raise ValueError(f"{args.model!r} has a class {ours!r}, {args.data} {theirs!r}.")
    features, size = "distance" in args.parts and args.features, train.images[0].size
    if features == "lenet" and train.labels is None:
        raise ValueError(
            f"--features lenet needs labels, which {args.data} has not: choose inception or pixels."
        )
    if features == "pixels" and size > MOST_PIXELS:
        raise ValueError(f"--features pixels: {size} an image are more than {MOST_PIXELS}.")


class Evaluation:
    """A model, the images to compare it with, and the parts, measured one by one.

    What is wrong with the arguments is found out when it is made.
    """

    def __init__(self, args):
        from keras_ddpm.checkpoints import open_model
        from keras_ddpm.evaluation import load_both
        from keras_ddpm.files import make_writable

        check_numbers(args)
        self.args, self.model = args, open_model(args.model)
        self.sampling = plan_sampling(args, self.model)
        self.folder = make_writable(args.output)
        self.train, self.test, self.held_out = load_both(
            args.data,
            args.train_split,
            args.test_split,
            args.validation_fraction,
            shape=self.model.sample_shape,
            data_dir=args.data_dir,
            num_images=args.data_images,
        )
        few = len(self.train) <= MOST_NEAREST_IMAGES
        args.parts = args.parts or ["distance", *(["nearest"] if few else [])]
        check_data(args, self.model, self.train, self.test)
        self.inputs = self.list_inputs()

    def list_inputs(self):
        """All that the results of each part depend on: unless it changes, neither do they."""
        from keras_ddpm.evaluation import digest

        args, config = self.args, json.dumps(self.model.diffusion.get_config())
        arrays = [array for s in (self.train, self.test) for array in (s.images, s.labels)]
        model = {"model": digest(config, *self.model.ema_network.get_weights())}
        data = {"data": digest(*(() if array is None else array for array in arrays))}
        samples = {"num_images": args.num_images, **self.sampling, **model}
        likelihood = ("labelled", "seed", "num_likelihood", "likelihood_timesteps")
        seeds = args.lenet_seeds if args.features == "lenet" else []
        return {
            "samples": samples,
            "distance": {**samples, **data, "features": args.features, "lenet_seeds": seeds},
            "nearest": {**samples, **data},
            "likelihood": {**model, **data, **{name: getattr(args, name) for name in likelihood}},
        }

    def run(self):
        """Measures the parts whose results are not there yet. Returns the paths of all files."""
        done = self.read()
        wanted = [part for part in self.args.parts if part not in done]
        if {"distance", "nearest"} & {*wanted}:
            wanted.insert(0, "samples")
        # Before the samples: this fails without a network, or on images that are too small.
        self.extractors = self.make_extractors() if "distance" in wanted else {}
        for part in wanted:
            begin = time.perf_counter()
            done[part] = {"inputs": self.inputs[part], "results": getattr(self, part)()}
            done[part]["seconds"] = time.perf_counter() - begin
            self.write(done)
        self.write(done)
        print((self.folder / "results.md").read_text())
        pictures = [picture for part, picture in PICTURES.items() if part in done]
        return [self.folder / name for name in ("results.md", "results.json", *pictures)]

    def make_extractors(self):
        """Functions from images to features, by name."""
        from keras_ddpm.metrics import InceptionFeatures, LeNetFeatures

        if self.args.features == "inception":
            return {"inception": InceptionFeatures()}
        if self.args.features == "pixels":
            return {"pixels": lambda images: images.reshape(len(images), -1) / 127.5 - 1}
        cache, seeds = self.folder / "features", self.args.lenet_seeds
        print(f"lenet: {len(seeds)} networks are trained, or read from {cache}", flush=True)
        data = self.train.images, self.train.labels
        return {f"lenet {seed}": LeNetFeatures(*data, seed, cache) for seed in seeds}

    # ---- the parts, by name: each returns what goes into results.json ------------------------

    def samples(self):
        from keras_ddpm.evaluation import draw_samples
        from keras_ddpm.plotting import image_grid, save_image

        options = {**self.sampling, "model": self.inputs["samples"]["model"]}
        name = "_".join(f"{key}={value}" for key, value in options.items())
        self.images, seconds = draw_samples(
            self.model,
            self.folder / "samples" / name,
            self.args.num_images,
            batch_size=self.args.batch_size,
            **self.sampling,
        )
        save_image(self.folder / "samples.png", image_grid(self.images[:SHOWN]))
        return {"folder": name, "seconds_an_image": seconds}

    def distance(self):
        from keras_ddpm.evaluation import measure_distances

        sets = self.images, self.train.images, self.test.images
        return measure_distances(self.extractors, *sets, seed=self.args.seed)

    def nearest(self):
        from keras_ddpm.evaluation import measure_memorisation
        from keras_ddpm.plotting import save_image

        rows, grid = measure_memorisation(self.images, self.train.images, self.test.images)
        save_image(self.folder / "nearest.png", grid)
        return rows

    def likelihood(self):
        from keras_ddpm.evaluation import measure_likelihood
        from keras_ddpm.plotting import plot_bits_per_dim

        rows, of_test_images = measure_likelihood(
            self.model,
            {"training images": self.train, "test images": self.test},
            self.args.num_likelihood,
            labelled=self.args.labelled,
            timesteps=self.args.likelihood_timesteps,
            seed=self.args.seed,
        )
        plot_bits_per_dim(of_test_images, self.folder / "bits.png")
        return rows

    # ---- results.json, and the same for a reader ---------------------------------------------

    def read(self):
        """The parts that are there already, and measured on just this."""
        path = self.folder / "results.json"

        def is_valid(part, inputs):
            """A part that is not asked for may have been measured with other options of its own."""
            ignored = () if part in self.args.parts else OWN_OPTIONS
            return all(inputs[k] == v for k, v in self.inputs[part].items() if k not in ignored)

        try:
            parts = json.loads(path.read_text())["parts"] if path.exists() else {}
            return {name: part for name, part in parts.items() if is_valid(name, part["inputs"])}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}. Delete it.") from error

    def write(self, parts):
        import keras

        from keras_ddpm.evaluation import describe
        from keras_ddpm.files import written_aside

        results = {
            "options": vars(self.args),
            "versions": {"keras": keras.__version__, "python": sys.version.split()[0]},
            "backend": keras.backend.backend(),
            "images": f"{len(self.train)} for training, {len(self.test)} for test: {self.held_out}",
            "parts": parts,
        }
        with written_aside(self.folder / "results.json") as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n")
        with written_aside(self.folder / "results.md") as partial:
            partial.write_text(describe(results))


if __name__ == "__main__":
    main()
