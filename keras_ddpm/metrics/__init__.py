"""Numbers that say how close samples are to data."""

from keras_ddpm.metrics.callback import EvaluateSamples
from keras_ddpm.metrics.extractors import extract, statistics_of
from keras_ddpm.metrics.frechet import (
    frechet_bias,
    frechet_distance,
    frechet_distance_of_moments,
)
from keras_ddpm.metrics.inception import InceptionFeatures
from keras_ddpm.metrics.kernel import kernel_distance
from keras_ddpm.metrics.lenet import LeNetFeatures
from keras_ddpm.metrics.likelihood import BitsPerDim, bits_per_dim
from keras_ddpm.metrics.nearest import (
    Memorisation,
    memorised_share,
    nearest_grid,
    nearest_neighbours,
)
from keras_ddpm.metrics.statistics import FeatureStatistics, moments
from keras_ddpm.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "BitsPerDim",
    "EvaluateSamples",
    "FeatureStatistics",
    "InceptionFeatures",
    "LeNetFeatures",
    "Memorisation",
    "bits_per_dim",
    "extract",
    "frechet_bias",
    "frechet_distance",
    "frechet_distance_of_moments",
    "kernel_distance",
    "memorised_share",
    "moments",
    "nearest_grid",
    "nearest_neighbours",
    "sliced_wasserstein",
    "statistics_of",
]
