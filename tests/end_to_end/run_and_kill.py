"""Runs the training command in one process after another, which kill themselves as a power cut.

    python run_and_kill.py FOLDER:EVENT:COUNT ... options of the command ...

Each process goes on with the run in FOLDER until EVENT happens for the COUNT-th time:

    batch              a batch is asked for
    checkpoint         a checkpoint is about to be written; the log has a row of the epoch
    half_checkpoint    half of a checkpoint is on the disk
    whole_checkpoint   a checkpoint has just got its name; older ones are still there
    half_final         half of final.keras is on the disk
    never

The processes are forks of one that has imported everything and computed nothing.
"""

import os
import signal
import sys
from pathlib import Path

from tools import command, run_command, tiny_network

from keras_ddpm_cli import train


def kill_at(wanted, count):
    replace = os.replace

    def happens(event, last_act=lambda: None):
        nonlocal count
        count -= event == wanted
        if event == wanted and count == 0:
            last_act()
            os.kill(os.getpid(), signal.SIGKILL)

    def dangerous_replace(source, target):
        path = Path(target)
        kind = "checkpoint" if path.parent.name == "checkpoints" else path.stem
        happens(f"half_{kind}", lambda: os.truncate(source, os.path.getsize(source) // 2))
        replace(source, target)
        happens(f"whole_{kind}")

    def before(event, function):
        return lambda *args: happens(event) or function(*args)

    os.replace = dangerous_replace
    train.ImageDataset.__getitem__ = before("batch", train.ImageDataset.__getitem__)
    train.Checkpoint.on_epoch_end = before("checkpoint", train.Checkpoint.on_epoch_end)


# Two convolutions with dropout instead of the U-Net, for speed.
train.UNet = lambda size, channels, num_classes, **_: tiny_network(size, channels, num_classes, 0.2)
moments = [argument for argument in sys.argv[1:] if ":" in argument]
for folder, event, count in (moment.split(":") for moment in moments):
    if (child := os.fork()) == 0:
        kill_at(event, int(count))
        run_command(command("train", config=None), "--run", folder, *sys.argv[1 + len(moments) :])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == (0 if event == "never" else signal.SIGKILL), (event, status)
