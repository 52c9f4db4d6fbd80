"""Measures the seconds of training and sampling beside Hugging Face diffusers.

    python benchmarks/speed.py
    python benchmarks/speed.py training sampling --rounds 7 --backends tensorflow torch

Each case runs in a process of its own, and the processes of one table run one round each in turn,
so that a slow minute of the machine affects all of them. A ratio is the median over rounds of the
reference's seconds divided by those of the case: above 1 the case is faster. Images are random. The
command writes speed.md and speed.json. If a case fails, it reports its last line and exits with 1.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from jsonargparse.typing import PositiveInt

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("float32", "mixed_bfloat16")


def unet(image_size, widths, has_attention, num_res_blocks=2):
    """The arguments of a `UNet`."""
    return locals()


NETWORKS = {
    "tiny": unet(16, (8, 16), (False, True), num_res_blocks=1),
    "small": unet(32, (48, 96, 144), (False, False, True)),  # 5.9 M parameters
    # 63 M parameters: the network of the keras.io example.
    "large": unet(64, (64, 128, 256, 512), (False, False, True, True)),
}
BATCH_SIZES = {"tiny": 4, "small": 16, "large": 8}
TRAINING_STEPS = {"tiny": 2, "small": 10, "large": 3}  # of a round
SAMPLERS = {"ddim": 50, "dpm_solver++": 20, "ddpm": 1000}  # with their steps
DIFFUSERS = "diffusers, torch"
PACKAGES = ("keras", *BACKENDS, "diffusers", "numpy")
# Several processes share a GPU, and none of them may take all of its memory.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class Case(NamedTuple):
    """A row of a table: a function of `speed_ours.py` or `speed_diffusers.py`, and its arguments.

    `references` are the names of the cases of the same table that it is compared with.
    """

    name: str
    backend: str
    module: str
    function: str
    arguments: dict
    references: tuple = ()


def training_tables(args):
    for network in args.networks:
        size = args.batch_size or BATCH_SIZES[network]
        for policy in args.policies:
            call = {"network": NETWORKS[network], "policy": policy, "batch_size": size}
            call["steps"] = TRAINING_STEPS[network]
            product = {"policy": policy, "size": args.matrix_size}
            cases = [
                *(Case(b, b, "speed_ours", "training", call, (DIFFUSERS,)) for b in args.backends),
                Case(DIFFUSERS, "torch", "speed_diffusers", "training", call),
                *(
                    Case(f"{b}: {args.matrix_size}² matrices", b, "speed_ours", "product", product)
                    for b in args.backends
                ),
            ]
            yield f"Training step, {network} network, batch {size}, {policy}", cases


def sampling_tables(args):
    network = args.networks[0]
    size = args.batch_size or BATCH_SIZES[network]
    for sampler in args.samplers:
        steps = 3 if network == "tiny" else SAMPLERS[sampler]
        call = {"network": NETWORKS[network], "num_images": size, "steps": steps}
        named, alone = {**call, "sampler": sampler}, "forward passes alone"
        cases = [Case(DIFFUSERS, "torch", "speed_diffusers", "sampling", named)]
        for b in args.backends:
            passes = Case(f"{b}: {alone}", b, "speed_ours", "forward_passes", call)
            references = (passes.name, DIFFUSERS)
            generate = Case(f"{b}: generate", b, "speed_ours", "sampling", named, references)
            cases += [passes, generate]
        yield f"Sampling {size} images, {network} network, {sampler}, {steps} steps", cases


def remat_tables(args):
    network = args.networks[-1]
    size = args.batch_size or BATCH_SIZES[network]
    call = {"network": NETWORKS[network], "policy": "float32", "batch_size": size, "steps": 1}
    for b in args.backends:
        kept = Case(b, b, "speed_ours", "training", call)
        again = {**call, "network": {**NETWORKS[network], "remat": True}}
        again = Case(f"{b}, remat=True", b, "speed_ours", "training", again, (b,))
        yield f"Blocks computed twice, {network} network, {b}", [kept, again]


def growth_tables(args):
    """How the seconds of a training step, or of all samples, and the memory grow."""
    tiny, backend = NETWORKS["tiny"], args.backends[0]

    def table(title, function, name, values, calls):
        cases = [Case(f"{v:,}", backend, "speed_ours", function, c) for v, c in zip(values, calls)]
        return f"{title}, {backend} ({name})", cases

    counts = [10**n for n in range(3, 7)]
    call = {"network": tiny, "batch_size": 32, "steps": 20}
    calls = [{**call, "num_images": n} for n in counts]
    yield table("A step by the images on disk", "training_from_disk", "images", counts, calls)
    sides = [16, 32, 64, 128]
    call = {"policy": "float32", "batch_size": 16, "steps": 3}
    calls = [{**call, "network": unet(s, (16, 32), (False, False), 1)} for s in sides]
    yield table("A step by the size of images", "training", "pixels a side", sides, calls)
    counts = [10**n for n in range(5)]
    call = {"network": tiny, "sampler": "ddim", "steps": 10}
    calls = [{**call, "num_images": n, "batch_size": 64} for n in counts]
    yield table("All samples by their number", "sampling", "samples", counts, calls)


GROUPS = {
    "training": training_tables,
    "sampling": sampling_tables,
    "remat": remat_tables,
    "growth": growth_tables,
}


class Worker:
    """The process of a case: it prints a line of JSON once it is ready, and after each round."""

    def __init__(self, case):
        self.seconds, self.facts, self.failure = [], {}, None
        self._errors = tempfile.TemporaryFile("w+")
        script = Path(__file__).with_name("speed_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, script, case.module, case.function, json.dumps(case.arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **ENVIRONMENT, "KERAS_BACKEND": case.backend},
        )
        self.facts |= self._read()

    def run_round(self):
        if self.failure is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            self.seconds += self._read().values()

    def close(self):
        if self.failure is None:
            self._process.stdin.close()
            self.facts |= self._read()
        self._process.wait()

    def _read(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        output = self._errors.read().strip().splitlines()
        self.failure = output[-1] if output else f"exit status {self._process.returncode}"
        return {}


def measure(title, cases, rounds):
    """The rows of a table. The cases get ready one after the other; then they take turns."""
    workers = {}
    try:
        for case in cases:
            print(f"{title}: {case.name} gets ready", flush=True)
            workers[case.name] = Worker(case)
        for i in range(rounds):
            print(f"{title}: round {i + 1} of {rounds}", flush=True)
            for worker in workers.values():
                worker.run_round()
    finally:
        for worker in workers.values():
            worker.close()
    # diffusers' network does as many operations as ours: only ours are counted.
    flops = next((w.facts["flops"] for w in workers.values() if "flops" in w.facts), None)
    rows = []
    for case in cases:
        worker = workers[case.name]
        row = {"name": case.name, "flops": flops, **worker.facts, "rounds": worker.seconds}
        others = {name: workers[name] for name in case.references if not workers[name].failure}
        if worker.failure is None:
            row["seconds"] = statistics.median(worker.seconds)
            row["ratios"] = {
                name: statistics.median(b / a for a, b in zip(worker.seconds, other.seconds))
                for name, other in others.items()
            }
        rows.append({**row, "failure": worker.failure})
    return {"title": title, "rows": rows}


def describe(results):
    """The tables as Markdown."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    lines = [f"{machine['processor']}, {machine['cores']} cores, {packages}", ""]
    lines += [f"`{results['command']}`"]
    for table in results["tables"]:
        lines += ["", f"### {table['title']}", ""]
        lines += ["| | seconds (lowest to highest) | speed | GFLOP/s | first | peak memory |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(cells(row))} |" for row in table["rows"]]
        if exponents := growth(table["rows"]):
            lines += ["", exponents]
    return "\n".join(lines) + "\n"


def growth(rows):
    """The exponents between the last two rows, if the names of rows are numbers."""
    if not all(row["name"].replace(",", "").isdecimal() and not row["failure"] for row in rows):
        return ""
    before, last = rows[-2:]
    factor = math.log(int(last["name"].replace(",", "")) / int(before["name"].replace(",", "")))
    found = {
        name: math.log(last[key] / before[key]) / factor
        for name, key in {"seconds": "seconds", "memory": "peak_megabytes"}.items()
    }
    return "; ".join(f"{name} grow as n^{exponent:.2f}" for name, exponent in found.items())


def cells(row):
    if row["failure"]:
        return [row["name"], f"failed: {row['failure'][:100]}", "", "", "", ""]
    seconds, rounds = row["seconds"], row["rounds"]
    device = row["peak_device_megabytes"]
    return [
        row["name"],
        f"{seconds:.3g} ({min(rounds):.3g} to {max(rounds):.3g})",
        ", ".join(f"{ratio:.2f} × {name}" for name, ratio in row["ratios"].items()),
        f"{row['flops'] / seconds / 1e9:,.0f}" if row["flops"] else "",
        f"{row['first']:.1f} s" if "first" in row else "",
        f"{row['peak_megabytes']:,.0f} MB" + (f", {device:,.0f} MB on the GPU" if device else ""),
    ]


def describe_machine():
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    processor = [*names, platform.processor(), platform.machine()][0]
    return {"processor": processor, "cores": os.cpu_count(), "packages": packages}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)} (default: all)")
    add("--networks", nargs="+", choices=[*NETWORKS], default=["small", "large"])
    add("--policies", nargs="+", choices=POLICIES, default=[*POLICIES])
    add("--backends", nargs="+", choices=BACKENDS, default=[*BACKENDS])
    add("--samplers", nargs="+", choices=[*SAMPLERS], default=["ddim", "dpm_solver++"])
    add("--batch_size", type=PositiveInt, help="of training and sampling (default: the network's)")
    add("--matrix_size", type=PositiveInt, default=2048, help="(default: %(default)s)")
    add("--rounds", type=PositiveInt, default=5, help="of each case (default: %(default)s)")
    add("--output", type=Path, default=Path("runs/speed"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    if unknown := [name for name in args.groups if name not in GROUPS]:
        parser.error(f"GROUP must be one of {', '.join(GROUPS)}, got {unknown[0]!r}")
    args.groups = args.groups or [*GROUPS]
    return args


def main():
    args = parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/speed.py {' '.join(sys.argv[1:])}".strip()
    results = {"command": command, "machine": describe_machine(), "tables": []}
    for group in args.groups:
        for title, cases in GROUPS[group](args):
            results["tables"].append(measure(title, cases, args.rounds))
            (args.output / "speed.json").write_text(json.dumps(results, indent=1) + "\n")
            (args.output / "speed.md").write_text(describe(results))
    print(describe(results))
    if any(row["failure"] for table in results["tables"] for row in table["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
