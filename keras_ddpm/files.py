"""Files that are either complete or not there, however a program ends."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

PARTIAL_PREFIX = ".partial-"


@contextmanager
def atomic_write(path):
    """Gives a path to write to. The file takes the place of `path` once it is complete.

    A program that is killed while it writes leaves the old file as it was, and a partial one beside
    it. The folder must exist.
    """
    path = Path(path)
    partial = path.with_name(PARTIAL_PREFIX + path.name)  # same folder, so same file system
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut might leave the new name without content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_writable(folder):
    """Creates a folder if need be, and returns its `Path` if it can be written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"cannot write to {str(folder)!r}: {error}. Choose another folder."
        raise OSError(message) from error
    return folder
