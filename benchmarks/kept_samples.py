"""Samples of a model, drawn in chunks by one process or several, and kept in a folder."""

import fcntl
import time
import zlib
from contextlib import contextmanager

BATCH_SIZE = 50


class Samples:
    """The chunks of samples in a folder, made by one process or several.

    Args:
        folder: a path; it is created.
        chunk_size: int, images a chunk.
    """

    def __init__(self, folder, chunk_size):
        self.folder, self.chunk_size = folder, chunk_size
        folder.mkdir(exist_ok=True)
        self._claims = open(folder / "claims", "w")  # noqa: SIM115 - locks last until it closes

    def paths(self, row, num_images):
        """The files of a row's first `num_images` samples, whether they exist or not."""
        starts = range(0, num_images, self.chunk_size)
        names = [f"{start:06d}-{start + self.chunk_size - 1:06d}.npz" for start in starts]
        return [self.folder / row.name / name for name in names]

    def missing(self, rows):
        """Triples (row, number of the first image, path) that have yet to be made.

        Args:
            rows: dict from `Row` to number of images.
        """
        return [
            (row, i * self.chunk_size, path)
            for row, num_images in rows.items()
            for i, path in enumerate(self.paths(row, num_images))
            if not path.exists()
        ]

    def load(self, row, num_images):
        """Images, labels and the median seconds of an image, or None if some are missing."""
        import numpy as np

        paths = self.paths(row, num_images)
        if not all(path.exists() for path in paths):
            return None
        chunks = [np.load(path) for path in paths]
        images, labels = (np.concatenate([c[k] for c in chunks]) for k in ("images", "labels"))
        return images, labels, float(np.median([c["seconds"] for c in chunks])) / self.chunk_size

    @contextmanager
    def claim(self, name):
        """Lends a name to one process at a time. The kernel takes it back from a dead one."""
        byte = zlib.crc32(str(name).encode())
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def make(self, model, rows):
        """Makes the missing chunks, but for those that other processes are at."""
        missing, compiled = self.missing(rows), set()
        for done, (row, first, path) in enumerate(missing, 1):
            with self.claim(path) as mine:
                if not mine or path.exists():
                    continue
                program = row._replace(spacing="")
                if program not in compiled:  # not to be timed
                    draw(model, row, min(BATCH_SIZE, self.chunk_size), first)
                    compiled.add(program)
                seconds = self._make_chunk(model, row, first, path)
            print(
                f"[{done}/{len(missing)}] {row.name}, from image {first}: {seconds:.1f} s, "
                f"{1000 * seconds / self.chunk_size:.3g} ms an image",
                flush=True,
            )

    def _make_chunk(self, model, row, first, path):
        import numpy as np

        from keras_ddpm.files import written_aside
        from keras_ddpm.plotting import to_uint8

        begin = time.perf_counter()
        images, labels = draw(model, row, self.chunk_size, first)
        seconds = time.perf_counter() - begin
        path.parent.mkdir(exist_ok=True)
        with written_aside(path) as partial:
            np.savez_compressed(partial, images=to_uint8(images), labels=labels, seconds=seconds)
        return seconds


def draw(model, row, num_images, first):
    """Samples number `first` and following, with the labels that were asked for, in turn.

    One number is one initial noise for every row: differences between rows are the samplers'.
    """
    import numpy as np

    labels = np.arange(first, first + num_images) % model.num_classes
    images = model.generate(
        num_images,
        labels=labels if row.labelled else None,
        guidance_scale=row.guidance,
        sampler=row.sampler,
        steps=row.steps,
        spacing=row.spacing,
        eta=row.eta,
        seed=first,
        batch_size=min(BATCH_SIZE, num_images),
    )
    return images, labels
