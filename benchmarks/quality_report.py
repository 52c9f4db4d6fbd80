"""What the samples in a folder say: distances, classes, tables and a figure.

Standard errors are those of the jackknife over 20 blocks of images: every number is computed again
without each block, of the samples and of the drawings in turn. It needs no formula for a distance
that is not a mean, and no more than the 40 numbers of a row. Because block j holds the same labels
and initial noise in every row, and the drawings are the same, the error of a difference of two rows
is had from the differences of their 40 numbers: what the rows share drops out. Near the floor,
where a distance is a square of something small, it is too large rather than too small.
"""

import json

import keras
import numpy as np
from flower_features import FlowerFeatures
from matplotlib.figure import Figure

from keras_ddpm.data import describe_flowers, draw_flowers
from keras_ddpm.data.drawn_flowers import LABEL_NAMES, PETALS
from keras_ddpm.files import written_aside
from keras_ddpm.metrics import frechet_distance_of_moments, moments
from keras_ddpm.plotting import image_grid, save_image

GROUPS = 20
REFERENCE_SEED, FLOOR_SEED = 103, 104
NOISE = 16  # standard deviation, of 255, for a distance that can be pictured
SHOWN = 48
SHOWN_STEPS = 20  # of the second panel, or the nearest there is


class Distance:
    """The Fréchet distance to fixed drawings, with its jackknife replicates.

    Its unit is a thousandth of the drawings' total variance: a feature's scale means nothing.
    """

    def __init__(self, features, drawings):
        variance = features(drawings).var(axis=0, ddof=1).sum()
        self._features = lambda images: features(images) * np.sqrt(1000 / variance)
        self._reference = _leaving_out(self._features(drawings))

    def __call__(self, images):
        """A dict of the distance, its standard error, and the replicates."""
        (all_b, *some_b), (all_a, *some_a) = self._reference, _leaving_out(self._features(images))
        replicates = [
            [frechet_distance_of_moments(*a, *all_b) for a in some_a],
            [frechet_distance_of_moments(*all_a, *b) for b in some_b],
        ]
        return {
            "num_images": len(images),
            "frechet": frechet_distance_of_moments(*all_a, *all_b),
            "standard_error": standard_error(replicates),
            "replicates": replicates,
        }


def _leaving_out(features):
    """Moments of all features, then without each of `GROUPS` blocks."""
    blocks = np.array_split(np.arange(len(features)), GROUPS)
    return [moments(features), *(moments(np.delete(features, block, 0)) for block in blocks)]


def standard_error(replicates):
    """Of the jackknife, samples and drawings being independent.

    Args:
        replicates: array-like `(2, GROUPS)`: without a block of samples, of drawings.
    """
    replicates = np.asarray(replicates)
    deviations = replicates - replicates.mean(axis=1, keepdims=True)
    return float(np.sqrt((GROUPS - 1) / GROUPS * np.sum(deviations**2)))


def compare(row, other):
    """Distance of `row` minus that of `other`, and the standard error of this difference."""
    difference = np.subtract(row["replicates"], other["replicates"])
    return row["frechet"] - other["frechet"], standard_error(difference)


def read_back(images, labels):
    """Shares of images whose label, colour, number of petals are read as asked."""
    found, _ = describe_flowers(images)
    known = found >= 0  # what is not recognised is wrong in every respect
    right = {
        "label": found == labels,
        "colour": known & (found // len(PETALS) == labels // len(PETALS)),
        "petals": known & (found % len(PETALS) == labels % len(PETALS)),
    }
    return {name: float(hits.mean()) for name, hits in right.items()}


def class_shares(labels, drawn):
    """Are the classes as frequent among samples as among drawings?

    Args:
        labels, drawn: ints `(n,)`, what a judge takes samples and drawings for; -1 is no flower.
    """
    counts = [np.bincount(x + 1, minlength=len(LABEL_NAMES) + 1) for x in (labels, drawn)]
    a, b = (count[(counts[0] + counts[1]) > 0] for count in counts)  # the first is "no flower"
    n, m = a.sum(), b.sum()
    chi_square = np.sum((np.sqrt(m / n) * a - np.sqrt(n / m) * b) ** 2 / (a + b))
    shares, data = (count[1:] / count.sum() for count in counts)
    worst = int(np.abs(shares - data).argmax())
    variance = shares[worst] * (1 - shares[worst]) / n + data[worst] * (1 - data[worst]) / m
    return {
        "chi_square": float(chi_square),
        "degrees_of_freedom": len(a) - 1,
        "largest_deviation": float(shares[worst] - data[worst]),
        "largest_deviation_error": float(np.sqrt(variance)),
        "largest_deviation_class": LABEL_NAMES[worst],
        "shares": dict(zip(LABEL_NAMES, shares.tolist())),
        "of_petals": dict(zip(PETALS, shares.reshape(-1, len(PETALS)).sum(axis=0).tolist())),
        "no_flower": float(counts[0][0] / n),
    }


def report(model, samples, parts, counts, output, num_drawings):
    """Measures every row whose samples are there; writes results.json, the table and figures."""
    size = model.sample_shape[:2]
    features = FlowerFeatures(output, size, num_drawings)
    drawings, labels = draw_flowers(num_drawings, image_size=size, seed=REFERENCE_SEED)
    distance = Distance(features, drawings)
    results = {
        "samples": samples.folder.name,
        "backend": keras.backend.backend(),
        "classifier_accuracy": features.accuracy,
        "reader": read_back(drawings, labels),
        "drawings": [one for n in set(counts.values()) for one in calibrate(distance, n, size)],
    }
    (output / "grids").mkdir(exist_ok=True)
    save_grid(output, "drawings", draw_flowers(SHOWN, size, labels=np.arange(SHOWN) % 24)[0])
    for part, rows in parts.items():
        results[part] = [
            measure_row(features, distance, row, loaded, drawings, output)
            for row in rows
            if (loaded := samples.load(row, counts[part])) is not None
        ]
    with written_aside(output / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=1))
    table = markdown(results)
    (output / "results.md").write_text(table)
    print(table)
    if results["curve"]:
        plot(results, counts["curve"], output / "quality.png")


def measure_row(features, distance, row, loaded, drawings, output):
    images, labels, seconds = loaded
    save_grid(output, row.name, images)
    result = {**row._asdict(), "evaluations": row.evaluations, "seconds_an_image": seconds}
    result |= distance(images)
    if row.labelled:
        classified = float((features.classify(images) == labels).mean())
        return result | {
            "classified_as_asked": classified,
            "read_as_asked": read_back(images, labels),
        }
    judges = {"classifier": features.classify, "reader": lambda x: describe_flowers(x)[0]}
    shares = {name: class_shares(judge(images), judge(drawings)) for name, judge in judges.items()}
    return result | {"classes": shares}


def calibrate(distance, num_images, size):
    """Fresh drawings in the place of samples: as they are, and with some noise."""
    fresh, _ = draw_flowers(num_images, image_size=size, seed=FLOOR_SEED)
    noise = np.random.default_rng(FLOOR_SEED).normal(0, NOISE, fresh.shape)
    noisy = np.clip(np.rint(fresh + noise), 0, 255).astype("uint8")
    return [{"noise": 0, **distance(fresh)}, {"noise": NOISE, **distance(noisy)}]


def save_grid(output, name, images):
    save_image(output / "grids" / f"{name}.png", image_grid(images[:SHOWN], columns=12), scale=3)


def markdown(results):
    """The tables, as text."""
    lines = [
        f"Classifier: {results['classifier_accuracy']:.2%} of fresh drawings are classified right.",
        f"Reader: {as_percent(results['reader'])} of fresh drawings are read right "
        "(label, colour, petals).",
        "",
        "| Drawings | n | Fréchet distance |",
        "|---|---|---|",
    ]
    for row in results["drawings"]:
        kind = f"noise of {row['noise']}/255" if row["noise"] else "as they are: the floor"
        lines.append(f"| {kind} | {row['num_images']} | {with_error(row)} |")
    for part in ("headline", "curve", "guidance"):
        if rows := results[part]:
            lines += ["", f"{part.capitalize()}, n = {rows[0]['num_images']}", "", *table(rows)]
    for row in results["guidance"]:
        for judge, classes in row.get("classes", {}).items():
            petals = ", ".join(f"{n}: {share:.1%}" for n, share in classes["of_petals"].items())
            lines += [
                "",
                f"{label(row)} without labels, by the {judge}: χ² = {classes['chi_square']:.1f} "
                f"with {classes['degrees_of_freedom']} degrees of freedom against the drawings; "
                f"largest deviation {classes['largest_deviation']:+.2%} ± "
                f"{classes['largest_deviation_error']:.2%} ({classes['largest_deviation_class']}); "
                f"petals {petals}; no flower: {classes['no_flower']:.2%}.",
            ]
    return "\n".join(lines) + "\n"


def table(rows):
    yield (
        "| Sampler | Spacing | Steps | Guidance | Evaluations | ms an image | Fréchet distance "
        "| − first row | Classified as asked | Read as asked: label, colour, petals |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        difference, error = compare(row, rows[0])
        judged = "| |"
        if row["labelled"]:
            judged = f"{row['classified_as_asked']:.1%} | {as_percent(row['read_as_asked'])} |"
        yield (
            f"| {label(row)} | {row['spacing']} | {row['steps']} "
            f"| {row['guidance'] if row['labelled'] else 'no labels'} | {row['evaluations']} "
            f"| {1000 * row['seconds_an_image']:.3g} | {with_error(row)} "
            f"| {difference:+.3f} ± {error:.3f} | {judged}"
        )


def label(row):
    return row["sampler"] + (f", η = {row['eta']:g}" if row["eta"] else "")


def with_error(row):
    return f"{row['frechet']:.3f} ± {row['standard_error']:.3f}"


def as_percent(shares):
    return ", ".join(f"{share:.1%}" for share in shares.values())


def plot(results, num_images, path):
    """Distance against network evaluations, and against the spacing."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = results["curve"]
    spacings = list(dict.fromkeys(row["spacing"] for row in rows))
    steps = {row["steps"] for row in rows}
    steps = min(steps, key=lambda number: abs(number - SHOWN_STEPS))
    for i, name in enumerate(dict.fromkeys(label(row) for row in rows)):
        own = [row for row in rows if label(row) == name]
        best = min(spacings, key=lambda s: mean_log([r for r in own if r["spacing"] == s]))
        line = [row for row in own if row["spacing"] == best]
        draw_errors(left, [row["evaluations"] for row in line], line, "o-", f"{name} ({best})")
        dots = [row for row in own if row["steps"] == steps]
        places = [spacings.index(row["spacing"]) + 0.1 * (i - 2) for row in dots]
        draw_errors(right, places, dots, "o", name)
    [floor] = [
        row["frechet"]
        for row in results["drawings"]
        if row["num_images"] == num_images and not row["noise"]
    ]
    for axes in (left, right):
        axes.axhline(floor, color="black", linestyle=":", label="fresh drawings")
        axes.grid(alpha=0.3, which="both")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="network evaluations a sample",
        ylabel=f"Fréchet distance, n = {num_images}",
        title="Each sampler in its best spacing",
    )
    left.legend(fontsize="small")
    ticks = sorted({row["evaluations"] for row in rows if row["sampler"] != "heun"})
    left.set_xticks(ticks, ticks)
    left.set_xticks([], minor=True)
    right.set_xticks(range(len(spacings)), spacings)
    right.set(title=f"{steps} steps in every spacing")
    with written_aside(path) as partial:
        figure.savefig(partial, dpi=150)


def mean_log(rows):
    return np.mean(np.log([row["frechet"] for row in rows])) if rows else np.inf


def draw_errors(axes, x, rows, style, name):
    distances = [row["frechet"] for row in rows]
    axes.errorbar(x, distances, [row["standard_error"] for row in rows], fmt=style, label=name)
