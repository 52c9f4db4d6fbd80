"""Numbers that say how close samples are to data."""

from keras_ddpm.metrics.frechet import frechet_distance, frechet_distance_of_moments, moments
from keras_ddpm.metrics.wasserstein import sliced_wasserstein

__all__ = ["frechet_distance", "frechet_distance_of_moments", "moments", "sliced_wasserstein"]
