"""Batches for `model.fit`, shuffled and flipped as a function of the seed and the epoch alone."""

import keras
import numpy as np

from keras_ddpm.data.images import ImageSet
from keras_ddpm.validation import check_positive_int


class ImageDataset(keras.utils.PyDataset):
    """Serves images in batches, in a new order and with new flips every epoch.

    What an epoch looks like depends only on `(seed, epoch)`, not on the epochs before it. So a
    run resumed at epoch 7 with `ImageDataset(..., epoch=7)` and `fit(initial_epoch=7)` sees what
    it would have seen without the interruption. Three things to know:

    - Call `fit(dataset, shuffle=False)`. With its default `shuffle=True` Keras also shuffles the
      order of the batches by Python's global `random`; the batches themselves stay the same.
    - Leave `steps_per_epoch` at None, so that an epoch is one pass over the images.
    - Leave `workers` at 1: cutting a batch out of memory takes no time worth sharing, and
      with more workers Keras lets leftover batches of one pass begin the next.

    Args:
        images: uint8 or float array of shape (n, height, width, channels), or an ImageSet.
        labels: Array of n labels, or None; None takes those of an ImageSet, if it has any.
        batch_size: Images in a batch, at most n.
        shuffle: Whether each epoch goes through the images in a new order.
        flip: Whether each image is mirrored left to right with probability 1/2.
        seed: A non-negative int.
        epoch: The epoch to begin with, a non-negative int. The attribute `epoch` can also be
            set later, before `fit(initial_epoch=...)` for instance.
        drop_remainder: Whether to leave out the smaller batch at the end of an epoch.
        part: `(i, n)` serves the i-th of n equal parts of every batch: what process i of n
            needs, for `batch_size` counts the images of all. See `keras_ddpm.devices`.
        **kwargs: For `keras.utils.PyDataset`.

    Items are tuples of numpy arrays: `(images,)`, or `(images, labels)` when there are labels.
    The images keep their dtype and range, so that bytes stay bytes until they reach the model.

    Raises:
        TypeError: `images` is no array of bytes or floats, or a number is no int.
        ValueError: A number is out of range, or there are not as many labels as images.

    Example:
        >>> dataset = ImageDataset(np.zeros((10, 8, 8, 3), "uint8"), batch_size=4)
        >>> len(dataset), dataset[0][0].shape
        (2, (4, 8, 8, 3))
    """

    def __init__(
        self,
        images,
        labels=None,
        batch_size=32,
        shuffle=True,
        flip=True,
        seed=0,
        epoch=0,
        drop_remainder=True,
        part=(0, 1),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(images, ImageSet):
            labels = images.labels if labels is None else labels
            images = images.images
        self.images = _check_images(images)
        self.labels = None if labels is None else np.asarray(labels)
        if self.labels is not None and self.labels.shape[:1] != self.images.shape[:1]:
            raise ValueError(
                f"labels must be one for each of the {len(self.images)} images, got "
                f"shape {self.labels.shape}"
            )
        self.batch_size = check_positive_int("batch_size", batch_size)
        if batch_size > len(self.images):
            raise ValueError(
                f"batch_size={batch_size} is more than there are images ({len(self.images)})"
            )
        self.shuffle = shuffle
        self.flip = flip
        self.seed = check_positive_int("seed", seed, minimum=0)
        self.drop_remainder = drop_remainder
        self.part, self.num_parts = part
        if not 0 <= self.part < self.num_parts:
            raise ValueError(f"part must be (i, n) with 0 <= i < n, got {part}")
        for size in self.batch_sizes:
            if size % self.num_parts:
                raise ValueError(
                    f"part={part}: a batch of {size} images does not divide into {self.num_parts} "
                    "equal parts"
                )
        self.epoch = epoch

    @property
    def epoch(self):
        """The epoch whose batches are served now."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = check_positive_int("epoch", epoch, minimum=0)
        self._begun = False
        self._served = 0
        # Two streams, so that turning one of the two off leaves the other as it was. SeedSequence
        # makes neighbouring seeds and epochs independent.
        streams = np.random.SeedSequence((self.seed, self._epoch)).spawn(2)
        order_rng, flip_rng = (np.random.default_rng(stream) for stream in streams)
        count = len(self.images)
        order = order_rng.permutation(count) if self.shuffle else np.arange(count)
        flipped = flip_rng.random(count) < 0.5 if self.flip else np.zeros(count, bool)
        self._plan = order, flipped

    @property
    def batch_sizes(self):
        """Images in a batch, and in the smaller one at the end if there is one."""
        rest = len(self.images) % self.batch_size
        return [self.batch_size] + [rest] * (rest > 0 and not self.drop_remainder)

    def __len__(self):
        full = len(self.images) // self.batch_size
        return full + len(self.batch_sizes) - 1

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of a data set of {len(self)} batches")
        self._served += 1
        order, flipped = self._plan
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        chosen = np.split(chosen, self.num_parts)[self.part]
        images = self.images[chosen]  # a copy, so flipping leaves the originals alone
        mirror = flipped[chosen]
        images[mirror] = images[mirror, :, ::-1]
        return (images,) if self.labels is None else (images, self.labels[chosen])

    def __iter__(self):
        self.on_epoch_begin()
        yield from super().__iter__()

    def on_epoch_begin(self):
        """Notes that an epoch has begun. `fit` and `for batch in dataset` call this."""
        self._begun = True

    def on_epoch_end(self):
        """Moves on to the next epoch, if all batches of this one have been served.

        The condition is there because before its first epoch `fit` calls this once more, and to
        build a model it may have begun an epoch and taken the first batch.
        """
        if self._begun and self._served >= len(self):
            self.epoch += 1

    def epoch_callback(self):
        """A callback that keeps `epoch` equal to the epoch `fit` is in.

        It is needed where only `fit` knows the epoch it begins with, as after
        `keras.callbacks.BackupAndRestore`, and for a model that `fit` has yet to build when
        there are only one or two batches: building it may then look like a whole epoch.
        """
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: setattr(self, "epoch", epoch)
        )


def _check_images(images):
    images = np.asarray(images)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"images must be an array of uint8 or floats, got dtype {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (n, height, width, channels), got {images.shape}")
    return images
