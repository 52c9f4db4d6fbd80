"""What a GPU shows in a few minutes: that the numbers hold on it, how fast it is, and flowers.

    python benchmarks/gpu.py
    python benchmarks/gpu.py train --minutes 9 --backends jax   # again and again, until it is done

smoke    the tests of the numerics, with each backend.
speed    benchmarks/speed.py: the network of the keras.io example beside diffusers, and the product
         of two large matrices, which says what share of the card a training step uses.
train    a network for flowers by class, examples/configs/flowers64.yaml, with the first backend. It
         is stopped after so many minutes; the next call goes on from its latest checkpoint. Once it
         is finished come 100 samples of each sampler, none picked, and a preset.

Everything lies in the output folder, and a short table is printed last. TensorFlow need not be
installed. `--small` does the same with toys: on a CPU it shows that all of this runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUMERICS = ("diffusion", "unet", "sampling", "guidance", "optimal", "convergence", "closed_form")
SAMPLERS = {  # with the steps of its grid
    "ddpm": {"steps": 1000},
    "ddim": {"steps": 50},
    "dpm_solver++": {"steps": 20, "eta": 1.0},
    "heun": {"steps": 25},
}
# The same roads, as short as they get.
SMALL_SPEED = ["--networks", "tiny", "--matrix_size", "256", "--rounds", "1", "--batch_size", "2"]
SMALL_TRAINING = {
    "data.name": "drawn_flowers",
    "data.validation_split": "validation",
    "data.image_size": 16,
    "data.num_images": 16,
    "network.widths": "[8, 8]",
    "network.has_attention": "[false, true]",
    "network.num_res_blocks": 1,
    "training.epochs": 3,
    "training.batch_size": 8,
    "training.warmup_steps": 2,
    "training.checkpoint_every": 1,
    "sampling.steps": 2,
    "sampling.num_images": 4,
    "diffusion.timesteps": 10,
}


def run(*command, backend, log, limit_s=None):
    """Runs Python on a command; what it prints goes to a file.

    Returns:
        A dict: seconds, exit status (None if it was stopped) and the last line of that file.
    """
    begin = time.perf_counter()
    with log.open("w") as file:
        environment = {**os.environ, "KERAS_BACKEND": backend}
        try:
            status = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    seconds = time.perf_counter() - begin
    words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {"seconds": seconds, "status": status, "last": words[-1] if words else ""}


def smoke(args):
    tests = [ROOT / "tests" / f"test_{name}.py" for name in NUMERICS]
    if args.small:
        tests = [ROOT / "tests" / "test_diffusion.py"]
    for backend in args.backends:
        log = args.output / f"smoke_{backend}.txt"
        yield f"smoke, {backend}", run("-m", "pytest", "-q", *tests, backend=backend, log=log)


def speed(args):
    options = ["--networks", "large", "--batch_size", 64, "--matrix_size", 8192, "--rounds", 3]
    if args.small:
        options = SMALL_SPEED
    command = ["benchmarks/speed.py", "training", "sampling", *options, "--backends"]
    command += [*args.backends, "--output", args.output]
    yield "speed", run(*command, backend=args.backends[0], log=args.output / "speed.txt")
    if (args.output / "speed.md").exists():
        print((args.output / "speed.md").read_text())


def train(args):
    backend, folder = args.backends[0], args.output / "flowers64"
    settings = SMALL_TRAINING if args.small else {}
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    command = ["examples/flowers.py", "--config", "examples/configs/flowers64.yaml"]
    command += ["--run", folder, *options]
    log, limit_s = args.output / "train.txt", 60 * args.minutes
    result = run(*command, backend=backend, log=log, limit_s=limit_s)
    yield f"train, {backend}", result
    if result["status"] == 0:
        os.environ["KERAS_BACKEND"] = backend  # before anything imports Keras
        from keras_ddpm.checkpoints import open_model

        model = open_model(folder / "final.keras")
        model.save_to_preset(args.output / "preset", "Flowers, class by class.")
        for sampler in SAMPLERS:
            yield sampler, draw(model, sampler, args)


def draw(model, sampler, args):
    """A hundred samples, ten by ten."""
    from keras_ddpm.plotting import image_grid, save_image

    options, count = {**SAMPLERS[sampler], "guidance_scale": 2.0}, 100
    if args.small:
        options["steps"], count = 2, 4
    labels = [i % model.num_classes for i in range(count)]
    begin = time.perf_counter()
    images = model.generate(labels=labels, sampler=sampler, seed=0, **options)
    seconds = time.perf_counter() - begin
    picture = args.output / f"{sampler.replace('+', 'p')}.png"
    save_image(picture, image_grid(images, columns=min(10, count)))
    return {"seconds": seconds, "status": 0, "last": str(picture), **options}


PARTS = {"smoke": smoke, "speed": speed, "train": train}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    add("--backends", nargs="+", choices=("jax", "torch", "tensorflow"), default=["jax", "torch"])
    add("--minutes", type=float, default=9.0, help="of training a call (default: %(default)s)")
    add("--small", action="store_true", help="toys, for a CPU")
    add("--output", type=Path, default=Path("runs/gpu"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"PART must be one of {', '.join(PARTS)}, got {unknown[0]!r}")
    if not args.minutes > 0:
        parser.error(f"--minutes must be more than 0, got {args.minutes}")
    args.parts = args.parts or [*PARTS]
    args.output = args.output.absolute()  # the scripts run in the root of the repository
    return args


def main():
    args = parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "gpu.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts:
        for name, result in PARTS[part](args):
            results[name] = result
            path.write_text(json.dumps(results, indent=1) + "\n")
    print("| | status | seconds | |\n|---|---|---|---|")
    for name, result in results.items():
        status = {0: "done", None: "goes on with the next call"}.get(result["status"], "failed")
        print(f"| {name} | {status} | {result['seconds']:.0f} | {result['last'][:80]} |")
    if any(result["status"] not in (0, None) for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
