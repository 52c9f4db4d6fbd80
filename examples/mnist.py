"""Trains a diffusion model on handwritten digits, class by class.

    python examples/mnist.py
    python examples/mnist.py --data.use_labels false --run runs/plain

The options, the files of a run, and how it is resumed are those of flowers.py.
"""

from pathlib import Path

try:
    from keras_ddpm.cli.train import train
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    train(Path(__file__).parent / "configs" / "mnist.yaml", __doc__)
