"""Draws images from a trained model, and shows how they emerge from noise."""

import reprlib

import numpy as np

from keras_ddpm.cli import load_image_model, make_parser, output_folder, tune_xla, user_errors
from keras_ddpm.devices import use_devices
from keras_ddpm.plotting import filmstrip, image_grid, save_gif, save_image
from keras_ddpm.validation import check_choice, check_int, did_you_mean

DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
MAX_IMAGES_IN_GIF = 16
FRAMES = 40
FILMSTRIP_IMAGES, FILMSTRIP_FRAMES = 4, 10
FRAME_MS, LAST_FRAME_MS = 80, 3000
MIN_SIDE = 64  # pixels of an image in a picture of several; smaller images are enlarged


def add_sampling_options(parser):
    """The options of `generate` that several commands have."""
    add = parser.add_argument
    add("--sampler", default="ddim", help="its name (default: %(default)s)")
    add("--steps", type=int, help="steps of the sampler (default: at most 50)")
    add("--spacing", help="which timesteps to visit (default: the sampler's)")
    add("--eta", type=float, default=0.0, help="fresh noise, 0 to 1 (default: %(default)s)")
    add("--guidance_scale", type=float, default=1.0, help="towards labels (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise (default: %(default)s)")


def sampling_options(args):
    names = ("sampler", "steps", "spacing", "eta", "guidance_scale", "seed")
    return {name: getattr(args, name) for name in names}


def sample(description=None):
    """Draws as the command line says."""
    tune_xla()
    parser = make_parser(description)
    add = parser.add_argument
    add("model", help="a .keras file, or a preset: its name or its folder")
    add("--num_images", type=int, default=16, help="how many (default: %(default)s)")
    add("--output", default="samples", help="folder (default: %(default)s)")
    add("--labels", nargs="+", help="classes by number or name, in turn (default: no label)")
    add_sampling_options(parser)
    add("--dtype_policy", help="precision of the network (default: as the model was saved)")
    add("--devices", type=int, default=1, help="to share the work (default: %(default)s)")
    args = parser.parse_args()
    with user_errors():
        check_int("num_images", args.num_images)
        check_int("seed", args.seed, minimum=0)
        if args.dtype_policy is not None:
            check_choice("dtype_policy", args.dtype_policy, DTYPE_POLICIES)
        output = output_folder(args.output)
        use_devices(args.devices)
        model = load_image_model(args.model, args.dtype_policy)
        images, trajectory = _draw(model, args)
        for path in _write(output, images, trajectory):
            print(path)


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
        images = generate(args.num_images, progress=True)
    return images, trajectory


def _write(output, images, trajectory):
    """The images one by one and together, and the process. Returns the paths of the latter."""
    for i, image in enumerate(images):
        save_image(output / f"image_{i:04d}.png", image)
    scale = max(1, MIN_SIDE // max(images.shape[1:3]))
    save_image(output / "grid.png", image_grid(images), scale)
    frames = [
        np.concatenate([image_grid(x_t), image_grid(x_start)], axis=1)
        for x_t, x_start in zip(trajectory.x_t, trajectory.x_start)
    ]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    save_gif(output / "process.gif", frames, durations, scale)
    strip = filmstrip(trajectory, FILMSTRIP_IMAGES, FILMSTRIP_FRAMES)
    save_image(output / "filmstrip.png", strip, scale)
    names = ("image_0000.png", "grid.png", "process.gif", "filmstrip.png")
    return [output / name for name in names]
