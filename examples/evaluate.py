"""Measures how good a model is.

    python examples/evaluate.py runs/mnist/final.keras --data mnist --features lenet \\
        --num_images 10000 --steps 50 --guidance_scale 2 --output runs/mnist/evaluation

There are two parts; by default distance is measured, and nearest if there are at most 20 000
training images:

distance    Fréchet and kernel distance of the samples to the training images; and for comparison
            of as many test images and of as much uniform noise.
nearest     the share of samples that are copies of training images, and each of the first samples
            beside the training images nearest to it.

Writes results.md, results.json, samples.png and nearest.png, and keeps the samples in samples/: a
stopped evaluation draws the rest. They do not record the version of the code: after changing a
sampler, choose another folder.
"""

try:
    from keras_ddpm.cli.evaluate import evaluate
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    evaluate(__doc__)
