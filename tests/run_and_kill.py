"""Runs `examples/flowers.py`, and kills itself at a chosen moment, as a power cut would.

    python run_and_kill.py EVENT COUNT arguments of flowers.py ...

The moment is the COUNT-th time that EVENT happens:

    batch              a batch is asked for
    checkpoint         an epoch's checkpoint is about to be written; its row is in the log
    half_checkpoint    half of a checkpoint is on the disk
    whole_checkpoint   a checkpoint has just got its name; older ones are still there
    half_final         half of final.keras is on the disk
    never
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import keras_ddpm.files
from keras_ddpm.callbacks import Checkpoint
from keras_ddpm.data import ImageDataset

EVENT, COUNT = sys.argv[1], int(sys.argv[2])
happened = 0


def happens(event):
    global happened
    happened += event == EVENT
    if event == EVENT and happened == COUNT:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_before(owner, name, event):
    original = getattr(owner, name)

    def replacement(*args):
        happens(event)
        return original(*args)

    setattr(owner, name, replacement)


class KillingOs:
    """The module `os` as `keras_ddpm.files` sees it, with a dangerous `replace`."""

    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, source, target):
        kind = {"checkpoints": "checkpoint"}.get(Path(target).parent.name)
        kind = "final" if Path(target).name == "final.keras" else kind
        if EVENT == f"half_{kind}" and happened == COUNT - 1:
            os.truncate(source, os.path.getsize(source) // 2)
        happens(f"half_{kind}")
        os.replace(source, target)
        happens(f"whole_{kind}")


kill_before(ImageDataset, "__getitem__", "batch")
kill_before(Checkpoint, "on_epoch_end", "checkpoint")
keras_ddpm.files.os = KillingOs()

script = Path(__file__).parent.parent / "examples" / "flowers.py"
sys.argv = [str(script), *sys.argv[3:]]
runpy.run_path(str(script), run_name="__main__")
