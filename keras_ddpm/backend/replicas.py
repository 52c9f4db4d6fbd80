"""TensorFlow: what a training step becomes when it runs as several replicas, one a device.

Under `tf.distribute.MirroredStrategy` each replica differentiates on its part of the batch, with
noise of its own. Then they meet once: the whole batch's loss and gradients are judged and applied
as on one device, and what is assigned there reaches all copies of a variable. Without a strategy
all of this does nothing.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_ddpm.faults import first_fault

# From one replica's seed to the next: so far that other generators' seeds are not in between.
SEED_STRIDE = 506_952_119


def count():
    """How many replicas the current step has."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def are_mirrored():
    """Whether there are replicas, be it only one."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MirroredStrategy)


def share(x):
    """This replica's share of the batch, 1 if there is no other replica."""
    if count() == 1:
        return 1.0
    images = tf.cast(tf.shape(x)[0], "float32")
    return images / tf.distribute.get_replica_context().merge_call(_sum, args=(images,))


def _sum(strategy, value):
    return tf.add_n(strategy.experimental_local_results(value))


def meet(function, batch, loss, gradients=()):
    """`function(batch, loss, gradients)` once for all replicas.

    Args:
        function: what to do with the whole batch's numbers. It may branch, and assign to variables.
        batch: dict of this replica's tensors, of which `x_start` and `fault` are handed on.
        loss, gradients: this replica's part of them, to be added up.
    """
    if not are_mirrored():
        function(batch, loss, gradients)
        return

    def meeting(strategy, x_start, fault, loss, gradients):
        parts = strategy.experimental_local_results
        whole = {"x_start": tf.concat(parts(x_start), 0), "fault": first_fault(*parts(fault))}
        with _without_merging(strategy):
            function(whole, _sum(strategy, loss), [_sum(strategy, g) for g in gradients])

    tf.distribute.get_replica_context().merge_call(
        meeting, args=(batch["x_start"], batch["fault"], loss, gradients)
    )


@contextlib.contextmanager
def _without_merging(strategy):
    """Keras' optimizers would call the replicas together; in here they are together already."""
    strategy.extended._use_merge_call = lambda: False  # TensorFlow 2.21 has no public way
    try:
        yield
    finally:
        del strategy.extended._use_merge_call


def update(variable, function, *args):
    """`function(variable, *args)`, with each copy of `variable` and the `args` beside it."""
    if are_mirrored():
        tf.distribute.get_strategy().extended.update(variable, function, args, group=False)
    else:
        function(variable, *args)


def separate_seeds(model):
    """Lets each replica draw numbers of its own: their copies of a seed are all the same."""
    for layer in model._flatten_layers():  # Keras 3.15 has no public list of these
        for generator in layer._seed_generators:
            if "next" not in vars(generator):
                generator.next = functools.partial(_next_of_replica, generator.next)


def _next_of_replica(draw, ordered=True):
    seed, context = draw(ordered), tf.distribute.get_replica_context()
    if context is None:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + tf.stack([replica * SEED_STRIDE, tf.zeros_like(replica)])


def prepare(model, loss, jit_compile, steps_per_execution=1, **_):
    """Refuses what Keras 3.15 cannot do under a strategy, or does wrong; separates the seeds."""
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        if strategy.num_replicas_in_sync == 1:
            return
        raise ValueError(
            f"the model was made under {type(strategy).__name__}, but with TensorFlow Keras 3 "
            "trains only on several devices of one machine: use tf.distribute.MirroredStrategy, "
            "or KERAS_BACKEND=jax for several machines."
        )
    if jit_compile is True:
        raise ValueError(
            "jit_compile=True does not work with MirroredStrategy. Leave it at 'auto', which does "
            "without XLA there, or use KERAS_BACKEND=jax."
        )
    if steps_per_execution != 1:
        raise ValueError(
            f"steps_per_execution={steps_per_execution} does not work with MirroredStrategy: it "
            "must be 1. KERAS_BACKEND=jax has no such limit."
        )
    function, example = keras.losses.get(loss), tf.ones((1, *model.sample_shape))
    if tf.rank(getattr(function, "call", function)(example, example)) == 0:
        raise ValueError(
            f"loss={loss!r} returns one number for the whole batch, which Keras weights wrongly "
            "under MirroredStrategy. Let it return one value a sample, or a pixel."
        )
    separate_seeds(model)
