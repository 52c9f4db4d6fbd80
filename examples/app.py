"""A page on which to choose a model and a sampler, and to watch images emerge from noise.

    python examples/app.py
    python examples/app.py --model runs/embedded/final.keras

Open the address it prints. On the left of the two pictures is the noisy state x_t, on the right the
predicted image x̂₀. The page needs Gradio: pip install -e ".[app]". It loads nothing from the
network, reports nothing to anybody, and by default only this computer can open it.
"""

try:
    from keras_ddpm.cli.app import app
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    app(__doc__)
