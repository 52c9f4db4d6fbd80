"""TensorFlow: `tf.distribute.MirroredStrategy`, one process with a replica for each device.

Every replica has its own copy of the variables and its part of a batch. What that means for the
training step is in `keras_ddpm/backend/replicas.py`.
"""

import contextlib

import keras
import tensorflow as tf

REMEDY = ""
join_processes = None


def list_devices():
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name.split("device:")[-1] for device in tf.config.list_logical_devices(kind)]


def use(names):
    strategy = tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    tf.distribute.experimental_set_strategy(strategy)


def process():
    return 0, 1


def count(variables):
    strategy = _strategy_of(variables)
    return strategy.num_replicas_in_sync if strategy else 1


def _strategy_of(variables):
    """The strategy that made these variables, also once its scope is left; None without one."""
    return getattr(variables[0].value, "distribute_strategy", None) if variables else None


def split_batch(function, variables):
    devices, strategy = count(variables), _strategy_of(variables)
    if devices == 1:
        return function

    def function_of_parts(batch, *others):
        if any(tensor.shape[0] % devices for tensor in keras.tree.flatten(batch)):
            return function(batch, *others)

        def function_of_replica(batch, *others):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            replica = tf.get_static_value(replica)
            part = keras.tree.map_structure(lambda x: tf.split(x, devices)[replica], batch)
            return function(part, *others)

        results = strategy.run(function_of_replica, args=(batch, *others))
        return tuple(tf.concat(strategy.experimental_local_results(r), 0) for r in results)

    return function_of_parts


alone = contextlib.nullcontext
