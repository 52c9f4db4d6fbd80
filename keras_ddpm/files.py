"""Files that are either complete or not there, and folders that one process writes to."""

import os
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PARTIAL_PREFIX = ".partial-"
LOCK = ".lock"


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
    except OSError as error:  # a full disk, for example, whose error names no file
        text = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write it: {text}", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def make_writable(folder) -> Path:
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


def lock_folder(folder):
    """Refuses a folder in which another process trains; keeps others out until `release`.

    The lock ends with the process, however that ends. A process may lock a folder twice.
    """
    path = Path(folder).resolve() / LOCK
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except OSError as error:
        if not isinstance(error, Timeout):
            raise OSError(f"cannot lock {str(path)!r}: {error}. Choose another folder.") from error
        raise OSError(
            f"another process trains in {str(folder)!r}. Wait for it, or choose another folder."
        ) from error
    return lock


def is_damaged(path):
    """Whether a zip file, such as Keras writes, is truncated or does not match its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except PermissionError:
        raise
    except (EOFError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        return True
