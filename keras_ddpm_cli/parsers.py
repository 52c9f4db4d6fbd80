"""The options of the commands, except for those of `train`, which are in `options.py`."""

import argparse

MODEL = "a .keras file, or a preset: a name such as flowers_32, a folder, or hf://user/name"

SAMPLE = """Draws images with a model, and shows how they emerge from noise.

  keras-ddpm sample flowers_32 --labels sunflower rose --guidance_scale 2
  keras-ddpm sample runs/embedded/final.keras --num_images 24
  keras-ddpm sample flowers_32 --upscale flowers_64_upscaler

Writes image_0000.png and so on, grid.png, process.gif (left: the noisy images x_t; right: the
predicted images) and filmstrip.png (the same for a few images, as a strip). In the last three,
small images are enlarged."""

EDIT = """Changes photographs with a model.

  keras-ddpm edit flowers_32 photo.jpg --strength 0.6 --labels sunflower
  keras-ddpm edit flowers_32 photo.jpg --mask mask.png
  keras-ddpm edit flowers_32 photo.jpg --to other.jpg
  keras-ddpm edit flowers_64_upscaler photo.jpg

Without --mask and --to it draws variations of each photograph: noise hides its details, and the
model draws them anew (SDEdit). With --mask it fills in the black part of the mask (RePaint). With
--to it draws images between each photograph and another one. A model that was trained for
super-resolution enlarges the photographs, one for colouring colours them, and one for inpainting
needs a --mask. Photographs are cropped centrally to the size of the model's images. Writes
edit.png, with the photographs on the left, and the edited images one by one."""

EVALUATE = """Measures how good a model is.

  keras-ddpm evaluate mnist_28 --data mnist --num_images 10000 --sampler dpm_solver++ --eta 1

There are two parts; by default distance is measured, and nearest if there are at most 20 000
training images:

distance    Fréchet and kernel distance of the samples to the training images; and for comparison
            of as many test images and of as much uniform noise.
nearest     the share of samples that are copies of training images, and each of the first samples
            beside the training images nearest to it.

Writes results.md, results.json, samples.png and nearest.png, and keeps the samples in samples/: a
stopped evaluation draws the rest. The kept samples do not record the version of the code: after
changing a sampler, choose another folder."""

APP = """Serves a page on which to choose a model and a sampler, and to watch images emerge.

  keras-ddpm app
  keras-ddpm app --model runs/embedded/final.keras

Open the address that it prints. The left picture is the noisy state x_t, the right one the
predicted image. The page needs Gradio: pip install "keras-ddpm[app]". It loads nothing from the
network, reports nothing to anybody, and by default only this computer can open it."""


def make_parser(description, name=None):
    """A parser of command lines that shows a description as it is."""
    return argparse.ArgumentParser(
        name and f"keras-ddpm {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_sampling_options(parser):
    """The options of `generate` that several commands have."""
    add = parser.add_argument
    add("--sampler", help="its name (default: the model's own; ddim with the next three)")
    add("--steps", type=int, help="steps of the sampler (default: at most 50)")
    add("--spacing", help="which timesteps to visit (default: the sampler's)")
    add("--eta", type=float, help="fresh noise, 0 to 1 (default: 0)")
    add("--guidance_scale", type=float, default=1.0, help="towards labels (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise (default: %(default)s)")


def sampling_options(args):
    names = ("sampler", "steps", "spacing", "eta", "guidance_scale", "seed")
    return {name: getattr(args, name) for name in names}


def sample():
    parser = make_parser(SAMPLE, "sample")
    add = parser.add_argument
    add("model", help=MODEL)
    add("--num_images", type=int, default=16, help="how many (default: %(default)s)")
    add("--upscale", help="a model, trained for super-resolution, that enlarges the images")
    add("--output", default="samples", help="folder (default: %(default)s)")
    add("--labels", nargs="+", help="classes by number or name, in turn (default: no label)")
    add_sampling_options(parser)
    add("--dtype_policy", help="precision of the network (default: as the model was saved)")
    add("--devices", type=int, default=1, help="to share the work (default: %(default)s)")
    return parser


def edit():
    parser = make_parser(EDIT, "edit")
    add = parser.add_argument
    add("model", help=MODEL)
    add("images", nargs="+", help="paths of photographs")
    text = "share of the sampler's steps to take, 0 to 1 (default: %(default)s)"
    add("--strength", type=float, default=0.5, help=text)
    add("--mask", help="path of a picture: white keeps a pixel, black fills it in")
    add("--to", help="path of another photograph, to draw images between both")
    text = "of the noise in photographs to enlarge (default: %(default)s)"
    add("--noise_level", type=float, default=0.1, help=text)
    add("--labels", nargs="+", help="one class, or one for each photograph (default: no label)")
    add("--variations", type=int, default=3, help="of each photograph (default: %(default)s)")
    add("--steps", type=int, help="steps of DDIM (default: at most 50)")
    add("--guidance_scale", type=float, default=1.0, help="towards labels (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    add("--output", default="edits", help="folder (default: %(default)s)")
    return parser


def evaluate():
    parser = make_parser(EVALUATE, "evaluate")
    add = parser.add_argument
    add("model", help=MODEL)
    add("--data", default="drawn_flowers", help="a name of load_images (default: %(default)s)")
    add("--data_dir", help="where to look for folders and data sets")
    add("--data_images", type=int, help="only the first so many of a split, as data.num_images")
    add("--train_split", help="what the model was trained on (default: the training part)")
    add("--test_split", help='what it was not trained on (default: "test", if there is one)')
    add("--validation_fraction", type=float, help="instead: the share that training held out")
    add("--parts", nargs="+", help="distance, nearest or both (default: see above)")
    add("--features", default="lenet", help="lenet or pixels (default: %(default)s)")
    add("--lenet_seeds", type=int, nargs="+", default=[0], help="a network each (default: 0)")
    add("--num_images", type=int, default=2000, help="how many samples (default: %(default)s)")
    add_sampling_options(parser)
    add("--batch_size", type=int, default=100, help="samples in memory (default: %(default)s)")
    add("--output", default="evaluation", help="folder (default: %(default)s)")
    return parser


def app():
    parser = make_parser(APP, "app")
    add = parser.add_argument
    add("--model", help="what to begin with: a .keras file, or a preset")
    text = "address to listen on; 0.0.0.0 admits other computers (default: %(default)s)"
    add("--host", default="127.0.0.1", help=text)
    add("--port", type=int, help="of the page (default: 7860, or the next free)")
    return parser
