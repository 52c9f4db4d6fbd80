"""TensorFlow and JAX: group normalisation of images in fewer passes over memory than Keras takes.

Keras splits the channels into an axis of groups and one of a few channels each, along which
vectors are short. Here means are taken for each channel first, and a product with a matrix
averages those of a group.
"""

import keras
import numpy as np
from keras import ops


class GroupNormalization(keras.layers.GroupNormalization):
    """What `keras.layers.GroupNormalization` computes, `(batch, height, width, channels)`, with
    scale and centre.
    """

    def call(self, x):
        channels, size = x.shape[-1], x.shape[-1] // self.groups
        average = np.kron(np.eye(self.groups), np.full((size, size), 1 / size)).astype("float32")

        def mean_of_group(x):
            """Over pixels and channels of a group, for each channel: `(batch, 1, 1, channels)`."""
            mean = ops.matmul(ops.mean(x, (1, 2)), ops.convert_to_tensor(average))
            return ops.reshape(mean, (-1, 1, 1, channels))

        x = ops.cast(x, "float32")  # under any dtype policy, as in Keras
        x = x - mean_of_group(x)
        inverse = ops.rsqrt(mean_of_group(ops.square(x)) + self.epsilon)
        x = x * (inverse * ops.cast(self.gamma, "float32")) + ops.cast(self.beta, "float32")
        return ops.cast(x, self.compute_dtype)
