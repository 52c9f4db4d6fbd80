"""Files that are either whole or not there, however a program ends."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

PARTIAL_PREFIX = ".partial-"


@contextmanager
def written_aside(path):
    """Lends a path to write to, whose content replaces `path` once it is complete.

    A program killed while it writes leaves the old file as it was, and a partial one beside it.

    Args:
        path: the file to be written. Its folder must exist.

    Example:

    ```python
    with written_aside("runs/a/config.yaml") as partial:
        partial.write_text("run: runs/a")
    ```
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
    """Creates a folder if need be, and proves that files can be written to it.

    Args:
        folder: a path.

    Returns:
        The folder, a `pathlib.Path`.

    Raises:
        OSError: if it cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to {str(folder)!r}: {error}. Choose another folder."
        ) from error
    return folder
