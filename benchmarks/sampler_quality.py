"""Measures how close samples are to the data, for each sampler, spacing and number of steps.

    python benchmarks/sampler_quality.py drawn_flowers_16 --part headline

The model, a preset or a `.keras` file, must be trained on the embedded data set with its 24 labels.

Closeness: the Fréchet distance of the samples, with balanced labels, to 20 000 fresh drawings, in
64 features of a classifier that is trained on the spot, and in thousandths of their total variance.
It is biased upward by about 1 / n, so only rows of one n compare. Fresh drawings in the place of
the samples give the floor. The error is that of a jackknife over 20 blocks of samples and of
drawings. All rows start from the same noise.

Classes: the share of samples of the requested class, according to the classifier, and according to
`read_flowers.py`, which also rejects what is no class, such as seven petals.

The output folder keeps the samples of each row. Choose another one after changing a sampler.
"""

import json
import time
from itertools import product
from pathlib import Path

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from read_flowers import read_flowers

from keras_ddpm import image_grid, load_diffusion_model, save_image
from keras_ddpm.data import draw_flowers
from keras_ddpm.data.drawn_flowers import CLASS_NAMES
from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.metrics import frechet_distance_of_moments
from keras_ddpm.pixels import to_uint8
from keras_ddpm.samplers import SAMPLERS, SPACINGS
from keras_ddpm_cli.parsers import make_parser

BLOCKS = 20
COLUMNS = ["sampler", "spacing", "steps", "eta", "guidance_scale"]
PARTS = {
    "headline": [
        ("ddpm", "trailing", 1000, 0.0, 1.0),
        *(("ddim", "trailing", steps, 0.0, 1.0) for steps in (20, 50)),
        ("heun", "trailing", 10, 0.0, 1.0),
        *(("dpm_solver++", s, 20, eta, 1.0) for s in ("trailing", "logsnr") for eta in (0.0, 1.0)),
    ],
    "curve": [
        (sampler, spacing, steps, eta, 1.0)
        for sampler, spacing, steps, eta in product(SAMPLERS, SPACINGS, (5, 10, 20, 50), (0.0, 1.0))
        if eta == 0 or sampler == "dpm_solver++" and spacing in ("trailing", "logsnr")
    ],
    "guidance": [
        (*row, scale)
        for row in [
            ("dpm_solver++", "trailing", 20, 0.0),
            ("dpm_solver++", "trailing", 20, 1.0),
            ("ddim", "trailing", 50, 1.0),
        ]
        for scale in (1.0, 2.0, 4.0)
    ],
}


def train_classifier(size, num_drawings):
    """A classifier of the 24 classes, and its 64 features. All activations are smooth."""
    keras.utils.set_random_seed(0)
    images, labels = draw_flowers(num_drawings, image_size=size, seed=101)
    epochs, batch_size = 12, 64
    classifier = keras.Sequential(
        [
            keras.Input((*size, 3), dtype="uint8"),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(24, 3, padding="same", activation="swish"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="swish"),
            layers.Conv2D(64, 3, strides=2, padding="same", activation="swish"),
            layers.Flatten(),
            layers.Dense(64, activation="swish", name="features"),
            layers.Dense(len(CLASS_NAMES), activation="softmax"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-num_drawings // batch_size))
    classifier.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    classifier.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=0)
    return classifier, keras.Model(classifier.inputs, classifier.get_layer("features").output)


def moments_without_each_block(features):
    """Mean and covariance of all features, then without each of the blocks."""
    blocks = np.array_split(np.arange(len(features)), BLOCKS)
    some = [features, *(np.delete(features, block, axis=0) for block in blocks)]
    return [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in some]


def jackknife(samples, drawings):
    """The distance of two lists of moments, and `(2, BLOCKS)` values without each block."""
    distance = frechet_distance_of_moments(*samples[0], *drawings[0])
    without = [
        [frechet_distance_of_moments(*some, *drawings[0]) for some in samples[1:]],
        [frechet_distance_of_moments(*samples[0], *some) for some in drawings[1:]],
    ]
    return distance, np.array(without)


def standard_error(without):
    deviations = without - without.mean(axis=1, keepdims=True)
    return float(np.sqrt((BLOCKS - 1) / BLOCKS * np.sum(deviations**2)))


def draw(model, row, num_images, folder):
    """The samples of a row, as uint8, and the milliseconds of one; from the folder if it can be."""
    path = folder / ("_".join(map(str, row)) + f"_{num_images}.npz")
    options = dict(zip(COLUMNS, row))
    labels = np.arange(num_images) % len(CLASS_NAMES)
    if not path.exists():
        print(f"{path.stem} …", flush=True)
        model.generate(50, labels=labels[:50], seed=0, batch_size=50, **options)  # compiles
        begin = time.perf_counter()
        images = model.generate(num_images, labels=labels, seed=0, batch_size=50, **options)
        milliseconds = 1000 * (time.perf_counter() - begin) / num_images
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, images=to_uint8(images), milliseconds=milliseconds)
    kept = np.load(path)
    return kept["images"], float(kept["milliseconds"])


def measure(model, part, num_images, num_drawings, output):
    """One dict for each row; the first is that of fresh drawings."""
    size = model.sample_shape[:2]
    classifier, network = train_classifier(size, num_drawings)
    drawings = draw_flowers(num_drawings, image_size=size, seed=103)[0]
    features = network.predict(drawings, batch_size=500, verbose=0).astype("float64")
    scale = np.sqrt(1000 / features.var(axis=0, ddof=1).sum())
    reference = moments_without_each_block(scale * features)
    labels = np.arange(num_images) % len(CLASS_NAMES)
    fresh = draw_flowers(num_images, image_size=size, seed=104, labels=labels)[0]
    first, results = None, []
    for row in [("fresh drawings", "", 0, 0.0, 1.0), *PARTS[part]]:
        images, milliseconds = draw(model, row, num_images, output) if row[1] else (fresh, 0.0)
        features = network.predict(images, batch_size=500, verbose=0).astype("float64")
        distance, without = jackknife(moments_without_each_block(scale * features), reference)
        if row[1] and first is None:
            first = distance, without
        difference, error = (distance - first[0], without - first[1]) if first else (0, without)
        classes = classifier.predict(images, batch_size=500, verbose=0).argmax(axis=1)
        results.append(
            {
                **dict(zip(COLUMNS, row)),
                "frechet": distance,
                "standard_error": standard_error(without),
                "minus_first": difference,
                "standard_error_of_difference": standard_error(error),
                "classified_as_asked": float((classes == labels).mean()),
                "read_as_asked": float((read_flowers(images)[0] == labels).mean()),
                "milliseconds": milliseconds,
            }
        )
        grid = image_grid(images[:48], columns=12)
        save_image(output / ("_".join(map(str, row)) + ".png"), grid, scale=3)
    return results


def table(results):
    """The results as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} | Fréchet | minus first | classified | read | ms |"]
    lines += ["|---" * (len(COLUMNS) + 5) + "|"]
    for row in results:
        cells = [str(row[name]) for name in COLUMNS]
        cells += [f"{row['frechet']:.2f} ± {row['standard_error']:.2f}"]
        cells += [f"{row['minus_first']:+.2f} ± {row['standard_error_of_difference']:.2f}"]
        cells += [f"{row[name]:.1%}" for name in ("classified_as_asked", "read_as_asked")]
        lines += [f"| {' | '.join(cells)} | {row['milliseconds']:.3g} |"]
    return "\n".join(lines) + "\n"


def plot(results, path):
    """The distance against the number of steps, of each sampler in its default spacing."""
    floor, *rows = results
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="steps", ylabel="Fréchet distance")
    axes.set_xticks([5, 10, 20, 50], labels=[5, 10, 20, 50])
    axes.minorticks_off()
    for name, eta in dict.fromkeys((row["sampler"], row["eta"]) for row in rows):
        wanted = (name, eta, "trailing")
        line = [r for r in rows if (r["sampler"], r["eta"], r["spacing"]) == wanted]
        points = [[row[key] for row in line] for key in ("steps", "frechet", "standard_error")]
        axes.errorbar(*points, fmt="o-", label=f"{name}, η = {eta:g}" if eta else name)
    axes.axhline(floor["frechet"], color="black", linestyle=":", label="fresh drawings")
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("model", help="a .keras file, or a preset: its name or its folder")
    add("--part", choices=[*PARTS], default="headline", help="(default: %(default)s)")
    add("--num_images", type=int, default=10000, help="of a row (default: %(default)s)")
    add("--num_drawings", type=int, default=20000, help="of the reference (default: %(default)s)")
    add("--output", default="runs/sampler_quality", help="folder (default: %(default)s)")
    args = parser.parse_args()
    if min(args.num_images, args.num_drawings) < 4 * BLOCKS:
        parser.error(f"--num_images and --num_drawings must be at least {4 * BLOCKS}")
    model = load_diffusion_model(args.model)
    if model.num_classes != len(CLASS_NAMES) or model.sample_shape[-1] != 3:
        parser.error(f"{args.model!r} was not trained on the embedded data set with its labels")
    output = make_writable(Path(args.output) / args.part)
    results = measure(model, args.part, args.num_images, args.num_drawings, output)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "results.md").write_text(table(results))
    if args.part == "curve":
        plot(results, output / "curve.png")
    print(table(results))


if __name__ == "__main__":
    main()
