"""Trains a diffusion model on handwritten digits, class by class: `keras-ddpm train`.

python examples/mnist.py
python examples/mnist.py --data.use_labels false --run runs/plain
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], config="mnist")
