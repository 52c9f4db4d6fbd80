"""Where does a step go? Seconds of each kind of operation, by the backend's own profiler.

    KERAS_BACKEND=tensorflow python benchmarks/profile_step.py
    KERAS_BACKEND=torch python benchmarks/profile_step.py --policy mixed_bfloat16
    KERAS_BACKEND=jax python benchmarks/profile_step.py --of sampling --network small --steps 50

Of training a step is one batch, of sampling one timestep of DDIM.

On one thread, unless --threads says otherwise: only then do operations run one after the other, and
their times add up to that of the step. On TensorFlow this needs JAX, which reads its profiles.

XLA names a loop after some of what it computes. On JAX `conv_general_dilated` are convolutions,
and `convolution` their gradients.
"""

import argparse
import os
import re
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

from speed_tables import BATCH_SIZES, NETWORKS, POLICIES
from threads import add_threads_option, limit_threads

JAX_PROGRAMS = ("jit_train_step", "jit_compiled")  # the step of `fit`, and the loop of `generate`


def profile_tensorflow(run):
    """Pairs of an operation's kind and its seconds, one for each time that it ran."""
    import tensorflow as tf

    for event in events(tf.profiler.experimental.Profile, run):
        name, _, kind = event.name.rpartition(":")  # of the node, and of its operation
        if event.name == "CpuExecutable::ExecuteAsyncOnStream":
            kind = "compiled by XLA"
        elif not name or name.endswith(":") or kind.startswith(" "):  # C++, and functions
            continue
        yield kind, event.duration_ns / 1e9


def profile_jax(run):
    """As `profile_tensorflow`; without loops and branches, which hold other operations."""
    import jax

    for event in events(jax.profiler.trace, run):
        facts = dict(event.stats)
        kind = re.sub(r"[.\d]+$", "", facts.get("hlo_op", ""))
        if facts.get("hlo_module") in JAX_PROGRAMS and kind not in ("while", "cond"):
            yield kind, event.duration_ns / 1e9


def events(profiler, run):
    """What `profiler` writes to a folder about `run`."""
    from jax.profiler import ProfileData

    with tempfile.TemporaryDirectory() as folder:
        with profiler(folder):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(ProfileData.from_file(str(path)).planes)
    return [event for plane in planes for line in plane.lines for event in line.events]


def profile_torch(run):
    """As `profile_tensorflow`; without the time of operations inside an operation."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    for event in profiler.events():
        yield event.name, event.self_cpu_time_total / 1e6


def make_run(of, network, policy, batch_size, steps):
    """A function without arguments that takes so many steps."""
    from speed_ours import make_model, random_images

    model = make_model(network, policy)
    if of == "sampling":
        return lambda: model.generate(batch_size, steps=steps, seed=0, batch_size=batch_size)
    images = random_images(network, batch_size)

    def train():
        for _ in range(steps):
            model.train_on_batch(images)

    return train


PROFILERS = {"tensorflow": profile_tensorflow, "jax": profile_jax, "torch": profile_torch}


def limit_jax(threads):
    """JAX takes as many threads as the process may use cores (on Linux)."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--of", choices=["training", "sampling"], default="training", help="(default: %(default)s)")
    add("--network", choices=[*NETWORKS], default="large", help="(default: %(default)s)")
    add("--policy", choices=POLICIES, default="float32", help="(default: %(default)s)")
    add("--batch_size", type=int, help="(default: the network's)")
    add("--steps", type=int, default=3, help="to take the mean of (default: %(default)s)")
    add("--rows", type=int, default=15, help="of the table (default: %(default)s)")
    add_threads_option(parser)
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    args.batch_size = args.batch_size or BATCH_SIZES[args.network]
    for name in ("batch_size", "steps", "rows"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def main():
    args = parse_args()
    limit_threads(args.threads)
    if os.environ.get("KERAS_BACKEND") == "jax":
        limit_jax(args.threads)
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow" and find_spec("jax") is None:
        raise SystemExit('JAX reads the profiles of TensorFlow: pip install -e ".[jax]"')
    take_steps = make_run(args.of, NETWORKS[args.network], args.policy, args.batch_size, args.steps)
    take_steps()  # prepares everything

    def run():
        begin = time.perf_counter()
        take_steps()
        elapsed.append((time.perf_counter() - begin) / args.steps)

    elapsed, seconds, calls = [], defaultdict(float), defaultdict(int)
    run()
    for kind, duration in PROFILERS[backend](run):
        seconds[kind] += duration / args.steps
        calls[kind] += 1
    print(f"{elapsed[0]:.3g} s a step, {elapsed[1]:.3g} s while it is watched\n")
    print("| operation | seconds a step | share | times |\n|---|---|---|---|")
    total = sum(seconds.values())
    for kind in sorted(seconds, key=seconds.get, reverse=True)[: args.rows]:
        share = f"{seconds[kind] / total:.0%}"
        print(f"| {kind} | {seconds[kind]:.3g} | {share} | {calls[kind] // args.steps} |")


if __name__ == "__main__":
    main()
