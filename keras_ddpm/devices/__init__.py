"""Many devices: each takes an equal part of every batch, and all keep the same weights.

What a backend forces to be different is in one file each: `jax.py` (`keras.distribution`, one or
several processes), `tensorflow.py` (`tf.distribute.MirroredStrategy`), and `torch.py`, where there
is one device, since Keras has no distribution for PyTorch. These names of theirs are used:

- `join_processes()`: waits for the other processes; None where there cannot be any.
- `list_devices()`: names of the devices of all processes; `REMEDY`: what to do for more.
- `use(names)`: puts what is made from now on onto these.
- `process()`: this process's number, and how many there are.
- `agree(number)`: whether it is the same in all processes; only where there are several.
- `count(variables)`: how many devices hold these Keras variables.
- `split_batch(function, variables)`: a function `(batch, *others)` that gives each of these
  devices its part of the tensors in `batch`, and puts the results together again.
- `alone()`: a context for what one process does without the others.
"""

import importlib
import os
import sys
import traceback
import zlib

import keras

from keras_ddpm.validation import check_positive_int

__all__ = ["is_chief", "process", "use_devices"]

_backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
alone, count, process, split_batch = (
    _backend.alone,
    _backend.count,
    _backend.process,
    _backend.split_batch,
)


def use_devices(devices="all"):
    """Spreads what follows, training and sampling, over several devices.

    To be called before anything is computed, and before the model is made or loaded. Each device
    then takes an equal part of every batch. If Keras' environment variables
    `KERAS_DISTRIBUTION_NUM_PROCESSES`, `_JOB_ADDRESSES` and `_PROCESS_ID` say that the program runs
    as several processes (JAX only), it waits until they have found one another. An error that
    nobody catches then ends its process at once, so that the others notice.

    Args:
        devices: int, how many; `"all"` takes all there are, which several processes must.

    Returns:
        The number of devices.

    Raises:
        ValueError: if there are not as many, or the backend cannot do it.

    Example:

    ```python
    use_devices(4)
    model = DiffusionModel(build_unet(image_size=64))
    model.compile(keras.optimizers.Adam(2e-4))
    model.fit(images, batch_size=32)  # eight images a device
    ```
    """
    if asked := [name for name in os.environ if name.startswith("KERAS_DISTRIBUTION_")]:
        if _backend.join_processes is None:
            raise ValueError(
                f"{asked[0]} is set, but several processes train together with KERAS_BACKEND=jax "
                "only."
            )
        _backend.join_processes()
    available = _backend.list_devices()
    if devices == "all":
        devices = len(available)
    devices = check_positive_int("devices", devices)
    if devices > len(available):
        raise ValueError(
            f"devices={devices}, but there {'is' if len(available) == 1 else 'are'} only "
            f"{len(available)}: {', '.join(available)}{_backend.REMEDY}."
        )
    _, processes = process()
    if processes > 1:
        if devices != len(available):
            raise ValueError(
                f"devices={devices}, but all {len(available)} devices of the {processes} processes "
                f'must take part: use {len(available)}, or "all".'
            )
        sys.excepthook = _end_at_once
    _backend.use(available[:devices])
    return devices


def is_chief():
    """Whether this process is the one that writes files: the first, or the only one."""
    return process()[0] == 0


def leave(code):
    """Ends the program. Of several processes, this one ends without waiting for the others."""
    if process()[1] == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_at_once(kind, error, trace):
    """Instead of Python's way, in which JAX waits minutes for processes that wait for this one."""
    traceback.print_exception(kind, error, trace)
    index, processes = process()
    print(
        f"error: process {index} of {processes} ends here, and so will the others, or it lost one "
        "of them. Start all of them again: a run goes on from its last checkpoint.",
        file=sys.stderr,
    )
    leave(1)


def check_distribution():
    """Refuses a distribution of Keras where it would have no effect."""
    if keras.distribution.distribution() is not None and keras.backend.backend() != "jax":
        raise ValueError(
            "keras.distribution spreads work over devices with JAX only; with "
            f"{keras.backend.backend()} it has no effect. Undo it with "
            "keras.distribution.set_distribution(None); keras_ddpm.devices.use_devices says what "
            "works instead."
        )


def check_agreement(*values):
    """Waits until all processes are here; refuses to go on if their values differ.

    Args:
        *values: anything whose `repr` says it all, the same in every process.
    """
    if process()[1] > 1 and not _backend.agree(zlib.crc32(repr(values).encode())):
        raise ValueError(
            "the processes do not agree on the configuration, or on how far the run is. Start all "
            "of them with the same arguments, and with a run folder that all of them see."
        )


def check_batches(sizes, devices):
    """Refuses batches that cannot be dealt equally.

    Args:
        sizes: numbers of images, one for each kind of batch, summed over all processes.
        devices: int, how many share a batch.
    """
    for size in sizes:
        if size % devices:
            raise ValueError(
                f"a batch of {size} does not divide among {devices} devices. Give batches of a "
                f"multiple of {devices}, also at the end of an epoch (drop_remainder=True)."
            )
