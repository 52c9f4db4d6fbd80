"""Trains on handwritten digits, and draws them plain, by class, and guided.

    python examples/mnist.py
    python examples/mnist.py --data.use_labels false --run runs/plain

The options, the files of a run, and how it is resumed are those of flowers.py. At the end comes
digits.png: a row without labels, and a row of the ten digits for each guidance scale.
The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch.
"""

from pathlib import Path

import flowers

MNIST = Path(__file__).parent / "configs" / "mnist.yaml"
GUIDANCE_SCALES = (1.0, 2.0, 4.0)


def main():
    config = flowers.main(default_config=MNIST, description=__doc__)
    draw_digits(Path(config.run), config.sampling)


def draw_digits(folder, sampling):
    import numpy as np

    from keras_ddpm.checkpoints import load_diffusion_model
    from keras_ddpm.devices import is_chief
    from keras_ddpm.plotting import image_grid, save_image

    model = load_diffusion_model(folder / "final.keras")
    options = flowers.sampler_options(sampling)
    del options["guidance_scale"]
    columns = model.num_classes or 10
    rows = [model.generate(columns, **options)]
    if model.num_classes is not None:
        rows += [
            model.generate(labels=range(columns), guidance_scale=scale, **options)
            for scale in GUIDANCE_SCALES
        ]
    if is_chief():
        grid = image_grid(np.concatenate(rows), columns=columns)
        save_image(folder / "digits.png", grid, scale=2)
        print(folder / "digits.png")


if __name__ == "__main__":
    main()
