"""Callbacks for `fit`: samples, checkpoints, logs, and the time that is left."""

from keras_ddpm.callbacks.checkpoint import Checkpoint, latest_checkpoint
from keras_ddpm.callbacks.csv_log import CSVLog
from keras_ddpm.callbacks.sampling import SampleImages, SamplingCallback
from keras_ddpm.callbacks.tensorboard import TensorBoard
from keras_ddpm.callbacks.throughput import Throughput
