"""Changes photographs with a trained model: `keras-ddpm edit`.

python examples/edit.py flowers_32 photo.jpg --strength 0.6 --labels sunflower
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["edit", *sys.argv[1:]])
