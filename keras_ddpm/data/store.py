"""Decoded images in a file on disk, for sets that are larger than memory."""

import hashlib
import json
from pathlib import Path

import numpy as np
from filelock import FileLock

from keras_ddpm.files import atomic_write, make_writable


def read_store(path, shape, contents, decode):
    """The images in a file that is mapped into memory, uint8 of `shape`: only what is used is read.

    `<path>.json` beside the file says what it holds. Where that is something else, or nothing,
    `decode(images)` fills the file first; another process with the same path waits for it.

    Args:
        path: path of the file, `*.npy`.
        shape: `(n, height, width, channels)`.
        contents: what the images depend on: anything with the same `repr` for the same images.
        decode: a function that fills an array, and returns what JSON can hold.

    Returns:
        The array, which cannot be written to, and what `decode` returned.
    """
    path, record = Path(path), Path(f"{path}.json")
    if path.suffix != ".npy":
        raise ValueError(f"store={str(path)!r} must be a file named *.npy.")
    make_writable(path.parent)
    key = hashlib.sha256(repr((shape, contents)).encode()).hexdigest()
    with FileLock(f"{path}.lock"):
        result = _read_record(path, record, key)
        if result is None:
            record.unlink(missing_ok=True)  # it must never stand beside another file
            with atomic_write(path) as partial:
                images = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
                result = decode(images)
                images.flush()
            with atomic_write(record) as partial:
                facts = {"key": key, "bytes": path.stat().st_size, "result": result}
                partial.write_text(json.dumps(facts))
        return np.load(path, mmap_mode="r"), result


def _read_record(path, record, key):
    """What `decode` returned when it made this file; None if it is not there as it was."""
    try:
        facts = json.loads(record.read_text())
        is_there = facts["key"] == key and path.stat().st_size == facts["bytes"]
        return facts["result"] if is_there else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
