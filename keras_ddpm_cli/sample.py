"""Draws images from a trained model, and shows how they emerge from noise."""

import reprlib

import numpy as np

from keras_ddpm.devices import use_devices
from keras_ddpm.plotting import filmstrip, image_grid, save_gif, save_image, visible_scale
from keras_ddpm.restoration import small_shape, upscale
from keras_ddpm.validation import check_choice, check_int, did_you_mean
from keras_ddpm_cli.common import load_image_model, output_folder, user_errors
from keras_ddpm_cli.parsers import sampling_options

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
MAX_IMAGES_IN_GIF = 16
FRAMES = 40
FILMSTRIP_IMAGES, FILMSTRIP_FRAMES = 4, 10
FRAME_MS, LAST_FRAME_MS = 80, 3000


def run(args):
    """Draws as the command line says."""
    with user_errors():
        check_int("num_images", args.num_images)
        check_int("seed", args.seed, minimum=0)
        if args.dtype_policy is not None:
            check_choice("dtype_policy", args.dtype_policy, DTYPE_POLICIES)
        output = output_folder(args.output)
        use_devices(args.devices)
        model = load_image_model(args.model, args.dtype_policy)
        upscaler = args.upscale and load_upscaler(args.upscale, model, args.dtype_policy)
        print(f"{args.num_images} images of {args.model} go to {output}", flush=True)
        images, trajectory = _draw(model, args)
        if upscaler:
            images = upscale(upscaler, images, seed=args.seed)
        for path in _write(output, images, trajectory):
            print(path)


def load_upscaler(source, model, dtype_policy):
    """The model of `--upscale`, if it enlarges the images of `model`."""
    with user_errors(model="--upscale"):
        upscaler = load_image_model(source, dtype_policy)
        if small_shape(upscaler) != model.sample_shape:
            raise ValueError(
                f"upscale={source!r} enlarges images {small_shape(upscaler)}, but those of the "
                f"model are {model.sample_shape}."
            )
    return upscaler


def class_names_of(model):
    """The names of a model's classes, or else their numbers, as strings."""
    return list(model.class_names or map(str, range(model.num_classes or 0)))


def parse_labels(labels, model):
    """One label or a list of them, names or numbers, as a list of ints. Of strings, names are
    looked up first, because a class may be called "2".
    """
    names, found = class_names_of(model), []
    numbers = {number: number for number in range(len(names))}
    numbers |= {str(number): number for number in numbers} | dict(zip(names, numbers))
    for label in labels if isinstance(labels, list) else [labels]:
        if type(label) not in (int, str) or label not in numbers:
            known = f"the model has {len(names)} classes{did_you_mean(label, names)}"
            raise ValueError(f"labels={reprlib.repr(label)} is no class: {known}")
        found.append(numbers[label])
    return found


def _draw(model, args):
    """The images, and the reverse process of the first few."""
    labels = args.labels and parse_labels(args.labels, model)

    def generate(count, **kwargs):
        repeated = None if labels is None else np.resize(labels, count)
        return model.generate(count, repeated, **sampling_options(args), **kwargs)

    model.check_request(args.num_images, None)  # whether they fit into memory
    # One seed gives the same first images, however many there are.
    shown = min(args.num_images, MAX_IMAGES_IN_GIF)
    images, trajectory = generate(shown, return_trajectory=FRAMES)
    if args.num_images > shown:
        images = generate(args.num_images)
    return images, trajectory


def _write(output, images, trajectory):
    """The images one by one and together, and the process. Returns the paths of the latter."""
    for i, image in enumerate(images):
        save_image(output / f"image_{i:04d}.png", image)
    grid = image_grid(images)
    save_image(output / "grid.png", grid, visible_scale(grid))
    frames = [
        np.concatenate([image_grid(x_t), image_grid(x_start)], axis=1)
        for x_t, x_start in zip(trajectory.x_t, trajectory.x_start)
    ]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    save_gif(output / "process.gif", frames, durations, visible_scale(frames[0]))
    strip = filmstrip(trajectory, FILMSTRIP_IMAGES, FILMSTRIP_FRAMES)
    save_image(output / "filmstrip.png", strip, visible_scale(strip))
    names = ("image_0000.png", "grid.png", "process.gif", "filmstrip.png")
    return [output / name for name in names]
