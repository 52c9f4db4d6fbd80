"""Diffusion of points in the plane instead of images, in about a minute on a CPU.

    python examples/spiral.py --output runs/spiral

Trains a small network on two arms of a spiral, and compares it with the optimal denoiser of the
same points, which needs no training and returns only these points. Writes

- forward.gif: noise is added to the points;
- reverse.gif: both denoisers go back to points, from the same noise;
- samples.png: the data, and the results of both;
- guidance.png: the network at several guidance scales;
- model.keras, for `keras.saving.load_model`.
"""

import math

try:
    from keras_ddpm_cli.common import MAX_SEED, output_folder, tune_xla, user_errors
    from keras_ddpm_cli.parsers import make_parser
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. Run: pip install -r requirements.txt") from None
except ImportError as error:
    raise SystemExit(f"error: {error}") from None
import keras
import numpy as np
from keras import ops
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_ddpm import MLP, DiffusionModel, FusedAdam, GaussianDiffusion, OptimalDenoiser
from keras_ddpm.plotting import save_gif, save_image
from keras_ddpm.samplers import DDIM, sample
from keras_ddpm.validation import check_int

NUM_POINTS, NUM_SAMPLES = 8000, 1500
BATCH_SIZE, LEARNING_RATE = 256, 2e-3
# Even steps of the logarithm of signal to noise: enough of them where lines become thin.
SAMPLER = DDIM(steps=50, spacing="logsnr")
FRAMES, DURATIONS = 40, [80] * 40 + [3000]  # of an animation, and milliseconds of each
GUIDANCE_SCALES = (1.0, 2.0, 4.0)


def draw_spiral(num_points, seed):
    """Points float32 `(num_points, 2)` along two arms, evenly by length, and their arms."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=num_points)
    # A turn grows longer in proportion to its radius, so the squares of radii are uniform.
    radius = np.sqrt(rng.uniform(0.25**2, 1.5**2, num_points))
    angle = 2 * np.pi * (radius + labels / 2)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noise = 0.03 * rng.standard_normal(points.shape)
    return (points + noise).astype("float32"), labels.astype("int32")


def draw_panels(panels, labels):
    """A picture, uint8, of sets of points side by side: a dict from titles to points."""
    figure = Figure(figsize=(3.2 * len(panels), 3.2), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, points) in zip(axes, panels.items()):
        colours = np.array(["C0", "C1"])[labels]
        # Without snap: markers moved to whole pixels make thin lines thicker.
        ax.scatter(*points.T, s=3, c=colours, linewidths=0, snap=False)
        ax.set_title(title, fontsize=10)
        ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def main():
    tune_xla()
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--epochs", type=int, default=200, help="over 8000 points (default: %(default)s)")
    add("--output", default="runs/spiral", help="folder (default: %(default)s)")
    add("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    args = parser.parse_args()
    with user_errors():
        check_int("epochs", args.epochs)
        check_int("seed", args.seed, minimum=0, maximum=MAX_SEED)
        output = output_folder(args.output)

    keras.utils.set_random_seed(args.seed)
    points, labels = draw_spiral(NUM_POINTS, args.seed)
    # Of the three predictions, velocity drew the cleanest lines.
    diffusion = GaussianDiffusion(prediction="velocity")
    model = DiffusionModel(MLP(num_classes=2), diffusion)
    updates = args.epochs * math.ceil(len(points) / BATCH_SIZE)
    model.compile(FusedAdam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, updates)))
    model.fit(points, labels, batch_size=BATCH_SIZE, epochs=args.epochs, verbose=2)
    model.save(output / "model.keras")

    fresh, arms = draw_spiral(NUM_SAMPLES, args.seed + 1)
    noise = np.random.default_rng(args.seed).standard_normal(fresh.shape).astype("float32")
    options = {"sampler": SAMPLER, "noise": noise, "batch_size": NUM_SAMPLES}
    by_network, network_path = model.generate(labels=arms, return_trajectory=FRAMES, **options)
    denoiser = OptimalDenoiser(points, diffusion, labels)

    def denoise(x_t, t):
        return denoiser(x_t, t, arms)

    _, optimal_path = sample(denoise, diffusion, noise, SAMPLER, return_trajectory=FRAMES)
    panels = {"data": fresh, "network": by_network, "optimal denoiser": optimal_path.x_t[-1]}
    save_image(output / "samples.png", draw_panels(panels, arms))
    guided = {
        f"guidance scale {scale:g}": model.generate(labels=arms, guidance_scale=scale, **options)
        for scale in GUIDANCE_SCALES
    }
    save_image(output / "guidance.png", draw_panels(guided, arms))

    forward = [draw_panels({"data": fresh}, arms)]
    for t in np.linspace(0, diffusion.timesteps - 1, FRAMES).astype("int32"):
        x_t = diffusion.q_sample(fresh, np.full(NUM_SAMPLES, t), noise)
        title = f"t = {t}, signal {diffusion.alphas_cumprod[t]:.1%}"
        forward.append(draw_panels({title: ops.convert_to_numpy(x_t)}, arms))
    save_gif(output / "forward.gif", forward, DURATIONS)
    reverse = [
        draw_panels({f"network, t = {t}": one, f"optimal denoiser, t = {t}": other}, arms)
        for t, one, other in zip(network_path.timesteps, network_path.x_t, optimal_path.x_t)
    ]
    save_gif(output / "reverse.gif", reverse, DURATIONS)
    for name in ("forward.gif", "reverse.gif", "samples.png", "guidance.png", "model.keras"):
        print(output / name)


if __name__ == "__main__":
    main()
