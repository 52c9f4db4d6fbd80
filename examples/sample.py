"""Draws images from a trained model, and shows how they emerge from noise.

    python examples/sample.py runs/embedded/final.keras --num_images 16 --output samples
    python examples/sample.py --preset drawn_flowers_16

The model is a .keras file, or a preset: a name such as drawn_flowers_16, or a folder.

Writes image_0000.png and so on, grid.png, process.gif: on the left the noisy images x_t, on the
right what the network takes them for, and filmstrip.png: the same for a few images, as a strip.
In these three, small images are enlarged, each pixel to a square.
The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch; a model trained
on one can be sampled on another.
"""

import argparse
import sys

MOST_IMAGES_IN_GIF = 16
FRAMES = 40
FILMSTRIP_IMAGES, FILMSTRIP_FRAMES = 4, 10
FRAME_MS, LAST_FRAME_MS = 80, 3000
SMALLEST_SIDE = 64  # pixels, of an image in a picture of several


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("model", nargs="?", help="a .keras file, or a preset: its name or folder")
    source.add_argument("--preset", help="a preset, said with an option")
    parser.add_argument("--num_images", type=int, default=16, help="how many (default: 16)")
    parser.add_argument("--output", default="samples", help="folder (default: samples)")
    parser.add_argument("--sampler", default="ddim", help="its name (default: ddim)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: at most 50)")
    parser.add_argument("--spacing", help="which timesteps to visit (default: the sampler's)")
    parser.add_argument("--eta", type=float, default=0.0, help="fresh noise, 0 to 1 (default: 0)")
    parser.add_argument(
        "--labels",
        type=lambda text: int(text) if text.isdecimal() else text,
        nargs="+",
        help="classes by number or by name, repeated in turn (default: no label)",
    )
    parser.add_argument(
        "--guidance_scale", type=float, default=1.0, help="push towards the labels (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--dtype_policy", help="precision of the network (default: as the model was saved)"
    )
    parser.add_argument("--devices", type=int, default=1, help="to share the work (default: 1)")
    args = parser.parse_args()
    args.model = args.model or args.preset
    return args


def main():
    args = parse_args()
    try:
        images, trajectory = draw(args)
        paths = write(args.output, images, trajectory)
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*paths, sep="\n")


def draw(args):
    """The images, and the reverse process of the first few."""
    import numpy as np

    from keras_ddpm.checkpoints import open_model
    from keras_ddpm.devices import use_devices
    from keras_ddpm.files import make_writable
    from keras_ddpm.validation import check_positive_int

    check_positive_int("--num_images", args.num_images)
    check_positive_int("--seed", args.seed, minimum=0)
    make_writable(args.output)
    use_devices(args.devices)
    model = open_model(args.model, args.dtype_policy)
    if not model.is_image:
        raise ValueError(f"{args.model!r} generates points, not images.")

    def generate(count, **kwargs):
        labels = None if args.labels is None else np.resize(args.labels, count)
        return model.generate(
            count,
            labels=labels,
            guidance_scale=args.guidance_scale,
            sampler=args.sampler,
            steps=args.steps,
            spacing=args.spacing,
            eta=args.eta,
            seed=args.seed,
            **kwargs,
        )

    # One seed gives the same first images, however many there are.
    shown = min(args.num_images, MOST_IMAGES_IN_GIF)
    images, trajectory = generate(shown, return_trajectory=FRAMES)
    if args.num_images > shown:
        images = generate(args.num_images, progress=True)
    return images, trajectory


def write(output, images, trajectory):
    """The images one by one and together, and the process. Returns the paths of the latter."""
    from pathlib import Path

    import numpy as np

    from keras_ddpm.plotting import filmstrip, image_grid, save_gif, save_image

    output = Path(output)
    for i, image in enumerate(images):
        save_image(output / f"image_{i:04d}.png", image)
    scale = max(1, SMALLEST_SIDE // max(images.shape[1:3]))
    save_image(output / "grid.png", image_grid(images), scale)
    frames = [
        np.concatenate([image_grid(x_t), image_grid(x_start)], axis=1)
        for x_t, x_start in zip(trajectory.x_t, trajectory.x_start, strict=True)
    ]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    save_gif(output / "process.gif", frames, durations, scale)
    strip = filmstrip(trajectory, FILMSTRIP_IMAGES, FILMSTRIP_FRAMES)
    save_image(output / "filmstrip.png", strip, scale)
    names = ("image_0000.png", "grid.png", "process.gif", "filmstrip.png")
    return [output / name for name in names]


if __name__ == "__main__":
    main()
