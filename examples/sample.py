"""Draws images with a trained model: `keras-ddpm sample`.

python examples/sample.py runs/embedded/final.keras --num_images 16 --output samples
python examples/sample.py flowers_32
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
