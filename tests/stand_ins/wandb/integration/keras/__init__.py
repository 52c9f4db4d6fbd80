import keras

import wandb


class WandbMetricsLogger(keras.callbacks.Callback):
    def __init__(self, log_freq="epoch", initial_global_step=0):
        super().__init__()
        assert wandb.run is not None, "You must call `wandb.init()` before WandbMetricsLogger()"

    def on_epoch_end(self, epoch, logs=None):
        wandb.run.log({f"epoch/{key}": value for key, value in (logs or {}).items()})
