"""Draws images from a trained model, and shows how they emerge from noise.

    python examples/sample.py runs/embedded/final.keras --num_images 16 --output samples
    python examples/sample.py drawn_flowers_16

The model is a .keras file, or a preset: a name such as drawn_flowers_16, or a folder.

Writes image_0000.png and so on, grid.png, process.gif: on the left the noisy images x_t, on the
right the predicted images x̂₀, and filmstrip.png: the same for a few images, as a strip. In these
three, small images are enlarged.
"""

try:
    from keras_ddpm.cli.sample import sample
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    sample(__doc__)
