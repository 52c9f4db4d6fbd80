"""TensorFlow and JAX: group normalisation of images in fewer passes over memory than Keras takes.

Keras splits the channels into an axis of groups and one of a few channels each, along which
vectors are short. Here means are taken for each channel first, and those of a group averaged.
"""

import keras
from keras import ops


class GroupNormalization(keras.layers.GroupNormalization):
    """What `keras.layers.GroupNormalization` computes, `(batch, height, width, channels)`, with
    scale and centre.
    """

    def call(self, x):
        channels = x.shape[-1]

        def mean_of_group(x):
            """Over pixels and channels of a group, for each channel: `(batch, 1, 1, channels)`."""
            mean = ops.reshape(ops.mean(x, (1, 2)), (-1, self.groups, channels // self.groups))
            mean = ops.repeat(ops.mean(mean, -1), channels // self.groups, axis=1)
            return ops.reshape(mean, (-1, 1, 1, channels))

        x = ops.cast(x, "float32")  # under any dtype policy, as in Keras
        x = x - mean_of_group(x)
        deviation = ops.sqrt(mean_of_group(ops.square(x)) + self.epsilon)
        x = x * (ops.cast(self.gamma, "float32") / deviation) + ops.cast(self.beta, "float32")
        return ops.cast(x, self.compute_dtype)
