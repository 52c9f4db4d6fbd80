"""Measures of samples beside the same measures of test images and of noise, as tables."""

import hashlib
import re
import time

import keras
import numpy as np

from keras_ddpm import metrics
from keras_ddpm.data import load_images
from keras_ddpm.files import atomic_write, make_writable
from keras_ddpm.pixels import to_uint8

CHUNK = 100  # samples in a file: no more are lost when a program is killed
MAX_KID_IMAGES = 10_000  # of the data, because kid compares every pair
NO_TEST_SPLIT = re.compile("split='test' is |Unknown split")  # the beginning of an error
SHOWN = 24  # samples beside the training images nearest to them
HELD_OUT = 0.05  # the share that takes the place of test images where there are none

COLUMNS = {  # of the table of each part
    "distance": ("images", "count", "features", "Fréchet distance", "KID"),
    "nearest": ("images", "count", "share memorised", "median distance"),
}
NOTES = {
    "distance": "Distances to the training images, ± a standard error, or the spread over "
    "networks. Fréchet distances compare between rows of one count only; those of no more images "
    "than features are too large.",
    "nearest": "Copies of training images, and the share of copies by chance:",
}


def load_both(name, train_split=None, test_split=None, held_out=None, *, shape, **options):
    """Two `ImageSet`s, what a model was trained on and others, and a str that says what the others
    are: the split `test_split`, or the share that was held out in training.
    """
    options |= {"image_size": shape[:2], "channels": shape[2]}
    train = load_images(name, train_split, **options)
    if held_out is None:
        try:
            test = load_images(name, test_split or "test", **options)
            return train, test, f"the split {test_split or 'test'}"
        except ValueError as error:
            if test_split is not None or not NO_TEST_SPLIT.match(str(error)):
                raise ValueError(re.sub("^split=", "test_split=", str(error))) from error
            held_out = HELD_OUT
    return *train.split(held_out), f"a share of {held_out:g} that is held out"


def digest(*values):
    """Twelve letters that change whenever one of these arrays or strings does."""
    found = hashlib.sha256()
    for array in map(np.asarray, values):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:12]


def draw_samples(model, folder, num_images, seed=0, batch_size=CHUNK, **options):
    """The first `num_images` samples of a sequence as uint8, and the median seconds of one.

    They come in chunks, each with a seed of its own, of classes in turn. Chunks that the folder
    holds are not drawn again, so each model and all options of `generate` need their own folder.
    """
    folder, labels, seconds = make_writable(folder), None, []
    samples = np.empty((num_images, *model.sample_shape), "uint8")
    starts = range(0, num_images, CHUNK)
    bar = keras.utils.Progbar(len(starts), unit_name="chunk")
    for first in starts:
        path = folder / f"{first:06d}.npz"
        if not path.exists():
            begin = time.perf_counter()
            if model.num_classes is not None:
                labels = np.arange(first, first + CHUNK) % model.num_classes
            images = model.generate(
                CHUNK,
                labels,
                seed=int(np.random.SeedSequence((seed, first)).generate_state(1)[0]),
                batch_size=min(batch_size, CHUNK),
                progress=False,  # the bar of chunks is enough
                **options,
            )
            taken = time.perf_counter() - begin
            with atomic_write(path) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, images=to_uint8(images), seconds=taken)
        try:
            with np.load(path) as chunk:
                images, taken = chunk["images"], float(chunk["seconds"])
            if images.dtype != np.uint8 or images.shape != (CHUNK, *model.sample_shape):
                raise ValueError(f"images of shape {images.shape} and dtype {images.dtype}")
        except Exception as error:  # damage can make NumPy and zipfile raise nearly anything
            raise ValueError(f"{path} is damaged ({error}). Delete it.") from error
        samples[first : first + CHUNK] = images[: num_images - first]
        seconds.append(taken)
        bar.add(1)
    return samples, float(np.median(seconds)) / CHUNK


def evenly_spaced(images, count):
    """At most so many of them; of images that are sorted by class, some of each."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images)))
    return images[chosen.round().astype(int)]


def measure_distances(extractors, samples, training_images, test_images, seed=0):
    """Distances to the training images: of samples, of test images and of uniform noise.

    There are as many test images as samples, or else another row of fewer samples, because
    distances of one count compare. Rows are dicts with the columns of `COLUMNS`; a value with an
    error is a pair. With several extractors, the last rows are means ± standard deviations.
    """
    test_images = evenly_spaced(test_images, len(samples))
    count, sets = len(test_images), {"samples": samples}
    if count < len(samples):
        sets[f"the first {count} samples"] = samples[:count]
    noise = np.random.default_rng(seed).integers(0, 256, test_images.shape, "uint8")
    sets |= {"test images": test_images, "uniform noise": noise}
    rows = []
    for name, extractor in extractors.items():
        print(f"distance: features of {name}", flush=True)
        reference = metrics.extract(extractor, training_images)
        for of_set, images in sets.items():
            features = metrics.extract(extractor, images)
            frechet = metrics.frechet_distance(features, reference)
            kid = metrics.kid(features, evenly_spaced(reference, MAX_KID_IMAGES))
            row = (of_set, len(images), name, frechet, kid)
            rows.append(dict(zip(COLUMNS["distance"], row)))
    for of_set in sets if len(extractors) > 1 else ():
        same = [row for row in rows if row["images"] == of_set]
        kids = [row["KID"][0] for row in same]
        frechets = [row["Fréchet distance"] for row in same]
        spread = [(float(np.mean(a)), float(np.std(a, ddof=1))) for a in (frechets, kids)]
        row = (of_set, same[0]["count"], "mean ± spread", *spread)
        rows.append(dict(zip(COLUMNS["distance"], row)))
    return rows


def measure_memorisation(samples, training_images, test_images):
    """Rows of a table, with the share of samples, and of as many test images, that are copies of
    training images; and a picture of the first samples beside their nearest training images.
    """
    print("nearest: each sample is compared with each training image", flush=True)
    test_images = evenly_spaced(test_images, len(samples))
    rows = []
    for name, images in (("samples", samples), ("test images", test_images)):
        row = (name, len(images), *metrics.memorised_share(images, training_images))
        rows.append(dict(zip(COLUMNS["nearest"], row)))
    indices, _ = metrics.nearest_neighbours(samples[:SHOWN], training_images, k=3)
    return rows, metrics.nearest_grid(samples[:SHOWN], training_images, indices)


def describe(results):
    """The results as Markdown, with a table for each part."""
    options, parts = results["options"], results["parts"]
    lines = [f"# {options['model']}", "", f"{options['data']}: {results['images']}."]
    how = ", ".join(f"{key} {value}" for key, value in results["samples"].items())
    lines += ["", f"Samples: {how}."]
    for part, rows in parts.items():
        cells = [COLUMNS[part], ["---"] * len(COLUMNS[part])]
        cells += [map(_cell, row.values()) for row in rows]
        lines += ["", NOTES[part], "", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join(lines) + "\n"


def _cell(value):
    """A word, a number, or a number with its error."""
    if isinstance(value, tuple):
        return f"{value[0]:.4g} ± {value[1]:.2g}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
