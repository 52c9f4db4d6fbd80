"""How good are samples? Drawn once and kept, then compared with data in any features."""

import hashlib
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

from keras_ddpm.data import load_images
from keras_ddpm.files import written_aside
from keras_ddpm.metrics import (
    bits_per_dim,
    extract,
    frechet_distance,
    kernel_distance,
    memorised_share,
    nearest_grid,
    nearest_neighbours,
    statistics_of,
)
from keras_ddpm.plotting import to_uint8

CHUNK = 100  # samples a file: no more are lost when a program is killed
BATCH = 1024  # images whose features are computed at once
MOST_KERNEL_IMAGES = 10_000  # of the data, as the kernel distance looks at every pair
SHOWN = 24  # samples beside the training images nearest to them
HELD_OUT = 0.05  # the share of a set without test images that takes their place
SECONDS_BETWEEN_LINES = 10

COLUMNS = {  # of the table of each part
    "distance": {"images": "images", "count": "n", "features": "features"}
    | {"frechet": "Fréchet distance", "kernel": "kernel distance"},
    "likelihood": {"images": "images", "count": "n", "bits": "bits per dimension"},
    "nearest": {"images": "images", "count": "n"}
    | {"share": "share memorised", "distance": "median distance to the nearest"},
}
NOTES = {
    "distance": "Distances to the training images, ± a standard error, or the spread over "
    "networks. Fréchet distances compare between rows of one n only; those of no more images than "
    "features are too large.",
    "likelihood": "The variational bound, ± a standard error.",
    "nearest": "Copies of training images, and what chance brings:",
}


class Progress:
    """Prints what is being done, how far it is, and how long it has to go, every ten seconds.

    Example:

    >>> report = Progress("samples", 1000)  # of so many
    >>> report(300)  # are done
    samples: 300 of 1000, 0:01:10 to go
    """

    def __init__(self, what, total):
        self.what, self.total = what, total
        self._begin = time.perf_counter()
        self._printed = -SECONDS_BETWEEN_LINES

    def __call__(self, done):
        elapsed = time.perf_counter() - self._begin
        if done == self.total or elapsed - self._printed >= SECONDS_BETWEEN_LINES:
            left = timedelta(seconds=round(elapsed * (self.total - done) / done))
            print(f"{self.what}: {done} of {self.total}, {left} to go", flush=True)
            self._printed = elapsed


def digest(*arrays):
    """Twelve letters that change whenever one of these arrays, or strings, does."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:12]


def load_both(name, train_split=None, test_split=None, held_out=None, *, shape, **options):
    """The images that a model was trained on, and others of the same kind.

    Args:
        name: a name of `load_images`.
        train_split: what the model was trained on; None is the training part.
        test_split: the others; None is the split "test".
        held_out: instead of `test_split`: the share of the training images to hold out, the same
            ones as `examples/flowers.py` does. It is 0.05 if there is no split "test".
        shape: (height, width, channels) of an image.
        **options: data_dir and num_images, see `load_images`.

    Returns:
        Two `ImageSet`s, and what the second is, a str.
    """
    options |= {"image_size": shape[:2], "channels": shape[2]}
    train = load_images(name, train_split, **options)
    if held_out is None:
        try:
            test = load_images(name, test_split or "test", **options)
            return train, test, f"the split {test_split or 'test'}"
        except ValueError:
            if test_split is not None:
                raise
            held_out = HELD_OUT  # the set is known, so it is the split that is not
    return *train.split(held_out), f"a share of {held_out:g} that is held out"


def draw_samples(model, folder, num_images, labelled=False, seed=0, batch_size=CHUNK, **options):
    """The first samples of an endless sequence. What the folder holds of them is not drawn again.

    They come in chunks of 100, each from a seed of its own, so that more of them are the same ones
    and some more. Files state only their place: give every model and all options their own folder.

    Args:
        model: a `DiffusionModel` of images.
        folder: a path; it is created.
        num_images: int, how many.
        labelled: bool, whether to ask for the model's classes, in turn.
        seed: int >= 0.
        batch_size: int, how many images are in memory at once.
        **options: sampler, steps, spacing, eta and guidance_scale, see `DiffusionModel.generate`.

    Returns:
        uint8 array `(num_images, height, width, channels)`, and the median seconds of an image.

    Example:

    >>> images, seconds = draw_samples(model, "runs/a/ddim_20", 1000, steps=20)
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {first: folder / f"{first:06d}.npz" for first in range(0, num_images, CHUNK)}
    missing = [first for first, path in paths.items() if not path.exists()]
    report = Progress("samples", CHUNK * len(missing))
    for done, first in enumerate(missing, 1):
        begin = time.perf_counter()
        images = model.generate(
            CHUNK,
            labels=np.arange(first, first + CHUNK) % model.num_classes if labelled else None,
            seed=int(np.random.SeedSequence((seed, first)).generate_state(1)[0]),
            batch_size=min(batch_size, CHUNK),
            **options,
        )
        seconds = time.perf_counter() - begin
        with written_aside(paths[first]) as partial:
            np.savez_compressed(partial, images=to_uint8(images), seconds=seconds)
        report(CHUNK * done)
    images, seconds = zip(*map(_load_chunk, paths.values()))
    return np.concatenate(images)[:num_images], float(np.median(seconds)) / CHUNK


def _load_chunk(path):
    with np.load(path) as chunk:
        return chunk["images"], chunk["seconds"]


def evenly_spaced(images, count):
    """At most so many of them; of images that are sorted by class, some of each."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images)))
    return images[chosen.round().astype(int)]


def measure_distances(extractors, samples, training_images, test_images, seed=0):
    """How far samples are from the training images; and test images, and uniform noise.

    Args:
        extractors: dict from names to functions from images to features, see `extract`.
        samples, training_images, test_images: uint8 arrays of at least 3 images. The kernel
            distance takes 10 000 training images at most, evenly spaced.
        seed: int >= 0, of the noise.

    Returns:
        A list of dicts, a row of a table each: `images` and `features` (their names), `count`,
        `frechet`, `kernel`, `kernel_error`, and `is_singular`: whether there are no more images
        than features. Rows of one count compare: there are as many test images as samples, or
        else another row of fewer samples. Several extractors, such as networks of different
        seeds, are followed by rows of their means, whose errors, `frechet_error` and
        `kernel_error`, are the standard deviations between the extractors.
    """
    test_images = evenly_spaced(test_images, len(samples))
    count = len(test_images)
    sets = {"samples": samples}
    if count < len(samples):
        sets[f"the first {count} samples"] = samples[:count]
    noise = np.random.default_rng(seed).integers(0, 256, test_images.shape, "uint8")
    sets |= {"test images": test_images, "uniform noise": noise}
    rows = []
    for name, extractor in extractors.items():
        batches = _in_batches(training_images, f"{name}: training images")
        reference = statistics_of(extractor, batches)
        some = extract(extractor, evenly_spaced(training_images, MOST_KERNEL_IMAGES))
        for of_set, images in sets.items():
            features = extract(extractor, _in_batches(images, f"{name}: {of_set}"))
            kernel, kernel_error = kernel_distance(features, some)
            row = {"images": of_set, "count": len(images), "features": name}
            row |= {"frechet": frechet_distance(features, reference)}
            row |= {"kernel": kernel, "kernel_error": kernel_error}
            fewest = min(len(images), reference.count)
            rows.append({**row, "is_singular": fewest <= features.shape[1]})
    return rows + (_summarise(rows) if len(extractors) > 1 else [])


def _in_batches(images, what):
    report = Progress(what, len(images))
    for i in range(0, len(images), BATCH):
        yield images[i : i + BATCH]
        report(min(i + BATCH, len(images)))


def _summarise(rows):
    """The mean of each set's distances; their errors are now the spread between the features."""
    summary = []
    for of_set in dict.fromkeys(row["images"] for row in rows):
        same = [row for row in rows if row["images"] == of_set]
        mean = {**same[0], "features": "mean ± spread"}
        for key in ("frechet", "kernel"):
            values = [row[key] for row in same]
            mean |= {key: np.mean(values).item(), f"{key}_error": np.std(values, ddof=1).item()}
        summary.append(mean)
    return summary


def measure_memorisation(samples, training_images, test_images):
    """The share of samples, and of as many test images, that are copies of training images.

    Returns:
        A list of dicts, a row of a table each: `images`, `count`, `share` and `distance`, see
        `memorised_share`; and a picture of the first samples, each beside its nearest three.
    """
    print("nearest: each sample is compared with each training image", flush=True)
    test_images = evenly_spaced(test_images, len(samples))
    found = memorised_share(samples, training_images, test_images)
    names, counts = ("samples", "test images"), (len(samples), len(test_images))
    keys = ("images", "count", "share", "distance")
    rows = [dict(zip(keys, row)) for row in zip(names, counts, found[::2], found[1::2])]
    shown = samples[:SHOWN]
    indices, _ = nearest_neighbours(shown, training_images, k=3)
    return rows, nearest_grid(shown, training_images, indices)


def measure_likelihood(model, sets, num_images, labelled=False, **options):
    """Bits per dimension of a few images of each of some sets.

    Args:
        model: a `DiffusionModel`.
        sets: dict from names to `ImageSet`s.
        num_images: int, of each set, evenly spaced.
        labelled: bool, whether the model is told their labels, where they have some.
        **options: see `bits_per_dim`.

    Returns:
        A list of dicts, a row of a table each: `images`, `count`, `bits` and `bits_error`; and
        the last set's `BitsPerDim`.
    """
    rows = []
    for name, images in sets.items():
        print(f"likelihood: {name}", flush=True)
        chosen = evenly_spaced(np.arange(len(images)), num_images)
        labels = images.labels[chosen] if labelled and images.labels is not None else None
        found = bits_per_dim(model, images.images[chosen], labels=labels, progress=True, **options)
        row = {"images": name, "count": len(chosen)}
        rows.append({**row, "bits": found.total, "bits_error": found.total_error})
    return rows, found


def describe(results):
    """Markdown: what was measured, and a table for each part.

    Args:
        results: dict, what `examples/evaluate.py` writes to results.json.
    """
    options, parts = results["options"], results["parts"]
    lines = [f"# {options['model']}", "", f"{options['data']}: {results['images']}."]
    if "samples" in parts:
        how, seconds = parts["samples"]["inputs"], parts["samples"]["results"]["seconds_an_image"]
        how = ", ".join(f"{key} {value}" for key, value in how.items())
        lines += ["", f"Samples, {seconds:.3g} s each: {how}."]
    for part, columns in COLUMNS.items():
        if part in parts:
            rows = [[_cell(row, key) for key in columns] for row in parts[part]["results"]]
            rows = [list(columns.values()), ["---"] * len(columns), *rows]
            lines += ["", NOTES[part], "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _cell(row, key):
    """A word, or a number with its error if it has one."""
    value, error = row[key], row.get(f"{key}_error")
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    if key == "frechet" and row["is_singular"]:
        text = f"too large: {text}"
    return text if error is None else f"{text} ± {error:.2g}"
