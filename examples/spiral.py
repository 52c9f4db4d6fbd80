"""Diffusion one can see: points in the plane instead of images, in about a minute on a CPU.

    python examples/spiral.py --data spiral --output runs/spiral

Trains a small network on labelled points, and compares it with the optimal denoiser of the same
points, which needs no training: it knows them by heart, and gives back nothing else. Writes

- forward.gif: noise takes the data apart;
- reverse.gif: both denoisers put them together again, from the same noise;
- samples.png: the data, and what came of each;
- guidance.png: the network pushed harder and harder towards each label;
- model.keras, for `keras.saving.load_model`.

The environment variable KERAS_BACKEND chooses between tensorflow, jax and torch.
"""

import argparse
import math
import sys
import time

DATA = ("spiral", "moons", "mixture")
FEWEST_POINTS = 100  # so that each class has some
BATCH_SIZE, LEARNING_RATE = 256, 2e-3
NUM_SAMPLES = 1500
# Equal steps of the logarithm of signal to noise: enough of them where lines become thin.
STEPS, SPACING = 50, "logsnr"
FRAMES = 40
FRAME_MS, LAST_FRAME_MS = 80, 3000
GUIDANCE_SCALES = (1.0, 2.0, 4.0)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="spiral", help=f"one of {', '.join(DATA)}")
    parser.add_argument("--num_points", type=int, default=8000, help="to train on (default: 8000)")
    parser.add_argument("--epochs", type=int, default=200, help="over them (default: 200)")
    parser.add_argument("--output", default="runs/spiral", help="folder (default: runs/spiral)")
    parser.add_argument(
        "--guidance_scale",
        type=float,
        default=1.0,
        help="of the network in reverse.gif and samples.png (default: 1, which follows the data)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        output = check(args)
        run(args, output)
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def check(args):
    """Refuses wrong arguments before any work. Returns the folder to write to."""
    from keras_ddpm.files import make_writable
    from keras_ddpm.validation import check_choice, check_positive_int

    check_choice("--data", args.data, DATA)
    check_positive_int("--num_points", args.num_points, FEWEST_POINTS)
    check_positive_int("--epochs", args.epochs)
    check_positive_int("--seed", args.seed, minimum=0)
    if not 0 <= args.guidance_scale < math.inf:
        raise ValueError(f"--guidance_scale must be at least 0, got {args.guidance_scale}.")
    return make_writable(args.output)


def draw(name, num_points, seed):
    """Labelled points by the name of their data set."""
    from keras_ddpm.data import draw_mixture, draw_moons, draw_spiral

    if name == "spiral":
        return draw_spiral(num_points, seed=seed, arms=2)
    return {"moons": draw_moons, "mixture": draw_mixture}[name](num_points, seed=seed)


def run(args, output):
    import keras
    import numpy as np

    from keras_ddpm import GaussianDiffusion, OptimalDenoiser, sample
    from keras_ddpm.plotting import save_gif, save_image
    from keras_ddpm.scatter import draw_scatter

    keras.utils.set_random_seed(args.seed)
    points, labels = draw(args.data, args.num_points, args.seed)
    # Of the three predictions, velocity drew the cleanest lines.
    diffusion = GaussianDiffusion(prediction="velocity")
    model = train(points, labels, diffusion, args.epochs)
    model.save(output / "model.keras")

    # Fresh points of the same kind: what samples are measured against, and whose labels they get.
    fresh, classes = draw(args.data, NUM_SAMPLES, args.seed + 1)
    noise = np.random.default_rng(args.seed).standard_normal(fresh.shape).astype("float32")

    def generate(scale, **kwargs):
        return model.generate(
            labels=classes,
            guidance_scale=scale,
            steps=STEPS,
            spacing=SPACING,
            noise=noise,
            batch_size=NUM_SAMPLES,
            **kwargs,
        )

    by_network, network_path = generate(args.guidance_scale, return_trajectory=FRAMES)
    denoiser = OptimalDenoiser(points, diffusion, labels)
    by_optimum, optimal_path = sample(
        lambda x_t, t: denoiser(x_t, t, classes),
        diffusion,
        noise,
        steps=STEPS,
        spacing=SPACING,
        return_trajectory=FRAMES,
    )
    others, _ = draw(args.data, NUM_SAMPLES, args.seed + 2)
    report(fresh, {"network": by_network, "optimal denoiser": by_optimum, "other data": others})

    def write_gif(name, frames):
        frames = [draw_scatter(panels) for panels in frames]
        save_gif(output / name, frames, [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS])

    write_gif("forward.gif", forward_frames(diffusion, fresh, classes, noise))
    write_gif("reverse.gif", reverse_frames(network_path, optimal_path, classes))
    samples = {"data": fresh, "network": by_network, "optimal denoiser": by_optimum}
    guided = {f"guidance scale {scale:g}": generate(scale) for scale in GUIDANCE_SCALES}
    for name, panels in (("samples.png", samples), ("guidance.png", guided)):
        panels = {title: (points, classes) for title, points in panels.items()}
        save_image(output / name, draw_scatter(panels))
    names = ("forward.gif", "reverse.gif", "samples.png", "guidance.png", "model.keras")
    print(*(output / name for name in names), sep="\n")


def train(points, labels, diffusion, epochs):
    """A `DiffusionModel` of the points, with a learning rate that falls to zero."""
    import keras

    from keras_ddpm import DiffusionModel, build_mlp

    model = DiffusionModel(build_mlp(num_classes=int(labels.max()) + 1), diffusion)
    updates = epochs * math.ceil(len(points) / BATCH_SIZE)
    decay = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, updates)
    model.compile(optimizer=keras.optimizers.Adam(decay))
    start = time.perf_counter()
    model.fit(points, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=2)
    print(f"trained in {time.perf_counter() - start:.0f} s, {updates} updates")
    return model


def report(fresh, found):
    """Prints how far each set of points is from fresh data; "other data" is the unavoidable."""
    from keras_ddpm.metrics import sliced_wasserstein

    print("sliced Wasserstein distance to fresh data:")
    for name, points in found.items():
        print(f"  {name:18}{sliced_wasserstein(points, fresh):.4f}")


def forward_frames(diffusion, points, labels, noise):
    """x_t as t grows, each point on its way towards its own noise."""
    import numpy as np
    from keras import ops

    yield {"data": (points, labels)}
    for t in np.linspace(0, diffusion.timesteps - 1, FRAMES).astype("int32"):
        x_t = diffusion.q_sample(points, np.full(len(points), t), noise)
        signal = diffusion.alphas_cumprod[t]
        yield {f"t = {t}, signal {signal:.1%}": (ops.convert_to_numpy(x_t), labels)}


def reverse_frames(network_path, optimal_path, labels):
    """x_t of both, as t falls to the finished samples."""
    for t, network, optimal in zip(network_path.timesteps, network_path.x_t, optimal_path.x_t):
        when = "done" if t < 0 else f"t = {t}"
        yield {
            f"network, {when}": (network, labels),
            f"optimal denoiser, {when}": (optimal, labels),
        }


if __name__ == "__main__":
    main()
