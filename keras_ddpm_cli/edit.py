"""Changes photographs with a model: variations, parts filled in, images between two; or enlarges
and colours them with a model that was trained for it."""

import numpy as np

from keras_ddpm.conditions import Colouring, Inpainting, SuperResolution
from keras_ddpm.data.folder import read_photographs
from keras_ddpm.editing import image_to_image, interpolate
from keras_ddpm.pixels import to_float
from keras_ddpm.plotting import image_grid, save_image, visible_scale
from keras_ddpm.restoration import colour, inpaint, small_shape, upscale
from keras_ddpm.validation import check_int, check_number
from keras_ddpm_cli.common import load_image_model, output_folder, user_errors
from keras_ddpm_cli.sample import parse_labels


def run(args):
    """Edits as the command line says."""
    with user_errors(first="IMAGES", second="--to", images="IMAGES"):
        check_number("strength", args.strength, "[0, 1]")
        check_int("variations", args.variations)
        check_int("seed", args.seed, minimum=0)
        if args.mask and args.to:
            raise ValueError("give --mask or --to, not both.")
        model = load_image_model(args.model)
        if model.conditioning and (args.to or bool(args.mask) != is_for(model, Inpainting)):
            option = (
                "a --mask and no --to" if is_for(model, Inpainting) else "no --mask and no --to"
            )
            raise ValueError(f"model={args.model!r} is for {model.conditioning}: give {option}.")
        shape = small_shape(model) if is_for(model, SuperResolution) else model.sample_shape
        *size, channels = shape
        photographs = to_float(read_photographs("images", args.images, size, channels))
        output = output_folder(args.output)
        print(f"{len(photographs)} photographs, edited by {args.model}, go to {output}", flush=True)
        rows = _edit(model, photographs, args)
        for number, row in enumerate(rows):
            for variant, image in enumerate(row):
                save_image(output / f"image_{number:04d}_{variant}.png", image)
        if is_for(model, SuperResolution):  # as large as the others in the picture
            photographs = photographs.repeat(model.conditioning.factor, 1)
            photographs = photographs.repeat(model.conditioning.factor, 2)
        cells = [[photograph, *row] for photograph, row in zip(photographs, rows)]
        grid = image_grid(np.concatenate(cells), columns=len(cells[0]))
        save_image(output / "edit.png", grid, visible_scale(grid))
        print(output / "edit.png")


def is_for(model, kind):
    return isinstance(model.conditioning, kind)


def _edit(model, photographs, args):
    """For each photograph its edited images, `(photographs, variants, height, width, channels)`."""
    options = {"steps": args.steps, "guidance_scale": args.guidance_scale, "seed": args.seed}
    count = len(photographs)
    labels = np.resize(parse_labels(args.labels, model), count) if args.labels else None
    if args.to:
        second = read_photographs("to", args.to, photographs.shape[1:3], photographs.shape[3])
        second = np.repeat(to_float(second), count, axis=0)
        options |= {"labels": labels, "strength": args.strength}
        return interpolate(model, photographs, second, **options).swapaxes(0, 1)
    options["labels"] = None if labels is None else np.repeat(labels, args.variations)
    repeated = np.repeat(photographs, args.variations, axis=0)
    if is_for(model, SuperResolution):
        edited = upscale(model, repeated, args.noise_level, **options)
    elif is_for(model, Colouring):
        edited = colour(model, repeated, **options)
    elif args.mask:
        edited = inpaint(model, repeated, args.mask, **options)
    else:
        edited = image_to_image(model, repeated, strength=args.strength, **options)
    return edited.reshape(count, args.variations, *edited.shape[1:])
