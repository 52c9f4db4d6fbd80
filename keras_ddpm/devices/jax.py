"""JAX: one program for all devices, and the compiler deals out the work.

`keras.distribution.DataParallel` puts a copy of every variable onto each device, and an equal part
of every batch. That is all: a mean over the batch is then one over all devices, and noise is drawn
for the whole batch, so that the same seed trains as it does on one device.
"""

import contextlib

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

REMEDY = ""


def join_processes():
    if jax.distributed.is_initialized():
        return
    try:
        keras.distribution.initialize()
    except ValueError as error:
        raise ValueError(
            "several processes need KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and "
            f"_PROCESS_ID in their environment: {error}"
        ) from error


list_devices = keras.distribution.list_devices


def use(names):
    distribution = None
    if len(names) > 1:
        # Each process serves its own part of a batch: there is nothing left to shard.
        distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)


def process():
    return jax.process_index(), jax.process_count()


def agree(number):
    """Whether all processes hold the same number. They wait for one another."""
    return len(set(multihost_utils.process_allgather(np.uint32(number)).tolist())) == 1


def count(variables):
    mesh = _mesh_of(variables)
    return 1 if mesh is None else mesh.devices.shape[0]


def _mesh_of(variables):
    """The devices that hold these variables; the first axis is that of the batch."""
    return getattr(variables[0].value.sharding, "mesh", None) if variables else None


def split_batch(function, variables):
    devices, mesh = count(variables), _mesh_of(variables)
    if devices == 1:
        return function
    parts = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def function_of_parts(batch, *others):
        if all(len(tensor) % devices == 0 for tensor in jax.tree.leaves(batch)):
            batch = jax.lax.with_sharding_constraint(batch, parts)
        # Whole again on every device, where each process can read it.
        return jax.lax.with_sharding_constraint(function(batch, *others), everywhere)

    return function_of_parts


@contextlib.contextmanager
def alone():
    """Variables made in here belong to this process; others are made by all of them together."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)
