"""Measures how good a model is: `keras-ddpm evaluate`.

python examples/evaluate.py mnist_28 --data mnist --num_images 10000 --output runs/evaluation
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
