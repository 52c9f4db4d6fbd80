"""Decoded images in a file on disk, for sets that are larger than memory."""

import hashlib
import json
from pathlib import Path

import numpy as np

from keras_ddpm.files import atomic_write, make_writable


class Store:
    """A uint8 array in a file of NumPy, which is mapped into memory: what is used is read.

    `<path>.json` beside it says which images it holds, and is written once all of them are there.

    Args:
        path: path of the file, `*.npy`.
        shape: of the array, `(n, height, width, channels)`.
        contents: what it depends on: anything with the same `repr` for the same images.
    """

    def __init__(self, path, shape, contents):
        self.path, self.record = Path(path), Path(f"{path}.json")
        if self.path.suffix != ".npy":
            raise ValueError(f"store={str(path)!r} must be a file named *.npy.")
        self.key = hashlib.sha256(repr((shape, contents)).encode()).hexdigest()
        self.reasons = self._read_record()
        self.is_complete = self.reasons is not None
        if self.is_complete:
            self.images = np.load(self.path, mmap_mode="r")
        else:
            make_writable(self.path.parent)
            self.record.unlink(missing_ok=True)
            self.images = np.lib.format.open_memmap(self.path, "w+", np.uint8, shape)

    def _read_record(self):
        try:
            record = json.loads(self.record.read_text())
            is_there = record["key"] == self.key and self.path.stat().st_size == record["bytes"]
            return record["reasons"] if is_there else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or not ours
            return None

    def complete(self, reasons):
        """Notes that all images are there, but those with a reason why not."""
        self.images.flush()
        record = {"key": self.key, "bytes": self.path.stat().st_size, "reasons": reasons}
        with atomic_write(self.record) as partial:
            partial.write_text(json.dumps(record))
