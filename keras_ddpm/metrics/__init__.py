"""Measures of how close samples are to data."""

from keras_ddpm.metrics.callback import EvaluateSamples
from keras_ddpm.metrics.extractors import extract
from keras_ddpm.metrics.frechet import frechet_bias, frechet_distance, frechet_distance_of_moments
from keras_ddpm.metrics.kid import kid
from keras_ddpm.metrics.lenet import LeNetFeatures
from keras_ddpm.metrics.nearest import memorised_share, nearest_grid, nearest_neighbours
