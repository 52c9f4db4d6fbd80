"""Trains a diffusion model on flowers, or on any folder of images, and resumes after a kill.

    python examples/flowers.py                                # the embedded set, on a CPU
    python examples/flowers.py --config examples/configs/oxford_flowers102.yaml
    python examples/flowers.py --run runs/short --training.epochs 3

A run is a folder: config.yaml, log.csv, loss.png, samples/, checkpoints/, samples.png and
final.keras; with --logging.tensorboard true also tensorboard/, for `tensorboard --logdir runs`.
Started again on the same folder, a run goes on from its latest checkpoint, to the same weights as
without the interruption.
"""

from pathlib import Path

try:
    from keras_ddpm.cli.train import train
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    train(Path(__file__).parent / "configs" / "embedded.yaml", __doc__)
