"""Trains a diffusion model on flowers, or on any folder of images: `keras-ddpm train`.

python examples/flowers.py                                # the embedded set, on a CPU
python examples/flowers.py --config oxford_flowers102     # for a GPU
python examples/flowers.py --run runs/short --training.epochs 3
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
