"""Serves a page on which images emerge from noise: `keras-ddpm app`.

python examples/app.py --model runs/embedded/final.keras
"""

import sys

try:
    from keras_ddpm_cli import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
