"""Mean and covariance of features that come in batches, so that they need not all be kept."""

import numpy as np


class FeatureStatistics:
    """Count, mean and covariance of features, in float64, whatever the order of the batches.

    Sums of squares are kept about the mean: sums about 0 lose their digits where a mean is large
    beside its deviations. Batches are joined as by Chan, Golub & LeVeque (1979), "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances", eq. 2.1.

    Args:
        features: optional float array `(n, d)`, the first batch.

    Attributes:
        count: int, rows so far.
        mean: float64 array `(d,)`; None before the first batch.

    Example:

    >>> statistics = FeatureStatistics()
    >>> for batch in batches:
    ...     statistics.update(extractor(batch))
    >>> frechet_distance(statistics, other_statistics)
    """

    def __init__(self, features=None):
        self.count, self.mean, self._scatter = 0, None, None
        if features is not None:
            self.update(features)

    def update(self, features):
        """Adds a batch.

        Args:
            features: float array `(n, d)`, n >= 1.

        Returns:
            This object.

        Raises:
            ValueError: if `features` is not 2-D, is empty, holds NaN or infinite values, or has
                not as many columns as the batches before. Nothing is added then.
        """
        features = check_features("features", features, first_row=self.count)
        mean = features.mean(axis=0)
        centred = features - mean
        return self._join(len(features), mean, centred.T @ centred)

    def merge(self, other):
        """Adds what another object has seen, which stays as it is.

        Args:
            other: a `FeatureStatistics`, of another part of the data.

        Returns:
            This object.

        Raises:
            ValueError: if the two have different numbers of features.
        """
        return self._join(other.count, other.mean, other._scatter) if other.count else self

    @property
    def covariance(self):
        """Unbiased covariance, float64 `(d, d)`.

        Raises:
            ValueError: before there are two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}.")
        return self._scatter / (self.count - 1)

    def _join(self, count, mean, scatter):
        if self.count == 0:
            self.count, self.mean, self._scatter = count, mean.copy(), scatter.copy()
            return self
        if len(mean) != len(self.mean):
            raise ValueError(
                f"features has {len(mean)} columns, those before had {len(self.mean)}."
            )
        total, shift = self.count + count, mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._scatter = self._scatter + scatter
        self._scatter += np.outer(shift, shift) * (self.count * count / total)
        self.count = total
        return self


def moments(features):
    """Mean `(d,)` and unbiased covariance `(d, d)` of features `(n, d)`, in float64."""
    statistics = FeatureStatistics(features)
    return statistics.mean, statistics.covariance


def check_features(name, features, minimum=1, first_row=0):
    """Returns features `(n, d)` as float64 if they are at least `minimum` rows of finite numbers.

    Args:
        name: str, for the message.
        features: array-like.
        minimum: int, rows needed.
        first_row: int, the number of the first row in the message.

    Raises:
        ValueError: if they are not; for a value that is not finite it names the first bad row.
    """
    features = np.asarray(features, "float64")
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must be 2-D, (n, d), got shape {features.shape}.")
    if len(features) < minimum:
        raise ValueError(f"{name} must have at least {minimum} rows, got {len(features)}.")
    is_bad = ~np.isfinite(features).all(axis=1)
    if is_bad.any():
        raise ValueError(
            f"{name} holds NaN or infinite values in {is_bad.sum()} of {len(features)} rows, "
            f"first in row {first_row + is_bad.argmax()}."
        )
    return features


def check_same_columns(a, b):
    """Complains unless two sets, known as features_a and features_b, have as many features."""
    if a != b:
        raise ValueError(
            f"features_a has {a} columns and features_b {b}: both must be features of one kind."
        )
