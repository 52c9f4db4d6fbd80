"""Batches for `model.fit`, shuffled and flipped as a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_ddpm.data.images import ImageSet
from keras_ddpm.described import Described
from keras_ddpm.validation import check_bool, check_images, check_int, check_labels, to_array


class ImageDataset(Described, keras.utils.PyDataset):
    """Serves images in batches, in a new order and with new flips every epoch.

    An epoch depends only on `(seed, epoch)`, so `ImageDataset(..., epoch=7)` and
    `fit(initial_epoch=7)` go on as if there had been no interruption. For this, leave
    `steps_per_epoch` at None and `workers` at 1, and outside of `DiffusionModel.fit` call
    `fit(dataset, shuffle=False)`. Items are `(images,)` or `(images, labels)`, NumPy arrays.

    Args:
        images: uint8, or float in [-1, 1], `(n, height, width, channels)`, or an `ImageSet`.
        labels: optional ints `(n,)`; None takes those of an `ImageSet`.
        batch_size: int, images in a batch, at most n.
        shuffle: bool, whether each epoch has a new order.
        flip: bool, whether each image is mirrored left to right with probability 1/2.
        seed: int >= 0.
        epoch: int >= 0, the epoch to begin with; the attribute `epoch` can be set later.
        drop_remainder: bool, whether to leave out the smaller batch at the end of an epoch.
        part: `(i, n)` serves the i-th of n equal parts of every batch: what process i of n
            needs, since `batch_size` counts the images of all.
        **kwargs: for `keras.utils.PyDataset`.

    >>> dataset = ImageDataset(np.zeros((10, 8, 8, 3), "uint8"), batch_size=4)
    >>> len(dataset), dataset[0][0].shape
    (2, (4, 8, 8, 3))
    """

    def __init__(
        self,
        images: ArrayLike | ImageSet,
        labels: ArrayLike | None = None,
        batch_size: int = 32,
        shuffle: bool = True,
        flip: bool = True,
        seed: int = 0,
        epoch: int = 0,
        drop_remainder: bool = True,
        part: tuple[int, int] = (0, 1),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if isinstance(images, ImageSet):
            labels = images.labels if labels is None else labels
            images = images.images
        self.images = check_images("images", images)
        self.labels = None
        if labels is not None:
            if to_array("labels", labels).ndim == 0:
                raise ValueError(f"labels={labels!r} must be one for each image.")
            self.labels = check_labels("labels", labels, len(self.images))
        self.batch_size = check_int("batch_size", batch_size)
        if batch_size > len(self.images):
            raise ValueError(f"batch_size={batch_size} is more than the {len(self.images)} images.")
        self.shuffle, self.flip = check_bool("shuffle", shuffle), check_bool("flip", flip)
        self.seed = check_int("seed", seed, minimum=0)
        self.drop_remainder = check_bool("drop_remainder", drop_remainder)
        if not isinstance(part, tuple | list) or len(part) != 2:
            raise TypeError(f"part={part!r} must be (i, n) with 0 <= i < n.")
        self.part, self.num_parts = (check_int("part", number, minimum=0) for number in part)
        if not 0 <= self.part < self.num_parts:
            raise ValueError(f"part={part} must be (i, n) with 0 <= i < n.")
        for size in self.batch_sizes:
            if size % self.num_parts:
                raise ValueError(f"part={part} does not divide a batch of {size} images.")
        self.epoch = epoch

    @property
    def epoch(self) -> int:
        """The epoch whose batches are served now."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = check_int("epoch", epoch, minimum=0)
        self._begun, self._served = False, 0
        # Two streams, so that turning one of the two off leaves the other as it was. SeedSequence
        # makes neighbouring seeds and epochs independent.
        streams = np.random.SeedSequence((self.seed, self._epoch)).spawn(2)
        order_rng, flip_rng = (np.random.default_rng(stream) for stream in streams)
        count = len(self.images)
        self._order = order_rng.permutation(count) if self.shuffle else np.arange(count)
        self._flipped = flip_rng.random(count) < 0.5 if self.flip else np.zeros(count, bool)

    @property
    def batch_sizes(self) -> list[int]:
        """Images in a batch, and in the smaller one at the end if there is one."""
        rest = len(self.images) % self.batch_size
        return [self.batch_size] + [rest] * (rest > 0 and not self.drop_remainder)

    def __len__(self) -> int:
        full = len(self.images) // self.batch_size
        return full + len(self.batch_sizes) - 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of a data set of {len(self)} batches.")
        self._served += 1
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        chosen = np.split(chosen, self.num_parts)[self.part]
        images = self.images[chosen]  # a copy, so flipping does not change the originals
        mirror = self._flipped[chosen]
        images[mirror] = images[mirror, :, ::-1]
        return (images,) if self.labels is None else (images, self.labels[chosen])

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self.on_epoch_begin()
        yield from super().__iter__()

    def on_epoch_begin(self) -> None:
        """Notes that an epoch has begun; `fit` and `for batch in dataset` call it."""
        self._begun = True

    def on_epoch_end(self) -> None:
        """Moves on to the next epoch, if all batches of this one have been served.

        `fit` also calls this before its first epoch, sometimes after it took a batch or two.
        """
        if self._begun and self._served >= len(self):
            self.epoch += 1

    def to_tf_dataset(self) -> Any:
        """The same batches as a `tf.data.Dataset`, on which the TensorFlow backend trains.

        TensorFlow does not tune it, because `fit` would wait for the tuning thread, which sleeps
        for 5, 10 or more seconds, at the end of each epoch.
        """
        import tensorflow as tf

        arrays = [self.images] if self.labels is None else [self.images, self.labels]
        # TensorFlow needs fewer operations for batches whose size is known.
        size = self.batch_size // self.num_parts if len(self.batch_sizes) == 1 else None
        shapes = [(size, *array.shape[1:]) for array in arrays]
        dtypes = [array.dtype for array in arrays]

        def serve(index):
            if index == 0:
                self.on_epoch_begin()
            batch = self[int(index)]
            if index == len(self) - 1:
                self.on_epoch_end()
            return batch

        def batch(index):
            tensors = tf.numpy_function(serve, [index], dtypes)
            return tuple(map(tf.ensure_shape, tensors, shapes))

        options = tf.data.Options()
        options.autotune.enabled = False
        return tf.data.Dataset.range(len(self)).map(batch).prefetch(1).with_options(options)
