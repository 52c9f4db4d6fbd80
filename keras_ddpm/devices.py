"""Many devices, with JAX and `keras.distribution.DataParallel`: each takes a part of every batch.

Noise is drawn for the whole batch, so that a seed trains as on one device, up to rounding.
"""

import contextlib
import os
from typing import Literal

import keras
import numpy as np

from keras_ddpm.validation import check_int

BACKEND = keras.backend.backend()


def use_devices(devices: int | Literal["all"] = "all") -> int:
    """Spreads training and sampling over several devices.

    Call it before anything is computed, and before the model is made or loaded. With Keras'
    environment variables `KERAS_DISTRIBUTION_NUM_PROCESSES`, `_JOB_ADDRESSES` and `_PROCESS_ID` for
    several processes, it waits for the others. `devices` is an int, or `"all"`, which several
    processes must take. Returns the number of devices.

    >>> use_devices(1)
    1
    """
    if devices != "all":
        check_int("devices", devices)
    has_processes = any(name.startswith("KERAS_DISTRIBUTION_") for name in os.environ)
    if BACKEND != "jax":
        if has_processes or devices not in ("all", 1):
            raise ValueError(f"devices={devices}: several need KERAS_BACKEND=jax, not {BACKEND}.")
        return 1
    if has_processes:
        keras.distribution.initialize()
    available = keras.distribution.list_devices()
    devices = len(available) if devices == "all" else devices
    if devices > len(available) or (process()[1] > 1 and devices != len(available)):
        raise ValueError(
            f"devices={devices}: there are {len(available)} ({', '.join(available)}), and several "
            "processes must take all of them."
        )
    distribution = None
    if devices > 1:
        # Each process serves its own part of a batch, so Keras must not split it once more.
        distribution = keras.distribution.DataParallel(
            devices=available[:devices], auto_shard_dataset=False
        )
    keras.distribution.set_distribution(distribution)
    return devices


def process():
    """This process's number, and how many processes there are."""
    if BACKEND != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_chief():
    """Whether this process writes the files: the first one, or the only one."""
    return process()[0] == 0


def processes_agree(number):
    """Waits for the other processes; returns whether all of them gave the same int."""
    if process()[1] == 1:
        return True
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((jax.device_count(),), ("devices",))
    mine = np.full(jax.local_device_count(), number, "int32")
    sharding = NamedSharding(mesh, PartitionSpec("devices"))
    numbers = jax.make_array_from_process_local_data(sharding, mine)
    return bool(jax.jit(lambda x: x.min() == x.max())(numbers))


def num_devices():
    """How many devices share a batch."""
    distribution = keras.distribution.distribution() if BACKEND == "jax" else None
    return 1 if distribution is None else distribution.device_mesh.shape[0]


def check_batches(sizes):
    """Refuses a distribution that has no effect, and sizes of batches that do not divide."""
    if keras.distribution.distribution() is not None and BACKEND != "jax":
        raise ValueError(f"keras.distribution has no effect with KERAS_BACKEND={BACKEND}; use jax.")
    for size in sizes:
        if size % num_devices():
            raise ValueError(
                f"batch_size={size} does not divide among {num_devices()} devices. Give batches of "
                f"a multiple of {num_devices()}, also at the end of an epoch (drop_remainder=True)."
            )


def split_batch(batch):
    """Gives each device its part of tensors `(batch, ...)`, if it divides; inside a program."""
    if num_devices() == 1 or any(len(x) % num_devices() for x in keras.tree.flatten(batch)):
        return batch
    return _distribute(batch, keras.distribution.distribution().get_data_layout)


def gather_batch(batch):
    """Gives each device all of the tensors, so that each process can read them."""
    if num_devices() == 1:
        return batch
    mesh, layout = keras.distribution.distribution().device_mesh, keras.distribution.TensorLayout
    return _distribute(batch, lambda shape: layout([None] * len(shape), mesh))


def _distribute(batch, layout_of):
    distribute = keras.distribution.distribute_tensor
    return keras.tree.map_structure(lambda x: distribute(x, layout_of(x.shape)), batch)


@contextlib.contextmanager
def alone():
    """For what one process does without the others, such as saving."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)
