"""How fast, beside Hugging Face diffusers and beside sampling as the keras.io examples do?

    python benchmarks/speed.py
    python benchmarks/speed.py training sampling --rounds 7 --backends tensorflow torch

Each case runs in a process of its own, and the processes of one table take turns, a round each, so
that whatever else the machine does meets them all. A ratio is the median, over rounds, of the
reference's seconds divided by the case's: above 1 is faster than the reference. Images are random;
no number depends on what they show.

Groups: training, sampling, input, start, memory. Writes speed.md and speed.json. A case that fails
is reported as failed, with its last words, and the command then exits with 1.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("float32", "mixed_bfloat16")
PACKAGES = ("keras", "tensorflow", "jax", "torch", "diffusers", "numpy")
NETWORKS = {
    "tiny": {
        "image_size": 16,
        "widths": (8, 16),
        "has_attention": (False, True),
        "num_res_blocks": 1,
    },
    "small": {  # 5.9 M parameters
        "image_size": 32,
        "widths": (48, 96, 144),
        "has_attention": (False, False, True),
        "num_res_blocks": 2,
    },
    "large": {  # 63 M: the network of the keras.io example
        "image_size": 64,
        "widths": (64, 128, 256, 512),
        "has_attention": (False, False, True, True),
        "num_res_blocks": 2,
    },
}
BATCH_SIZES = {"tiny": 4, "small": 16, "large": 8}
STEPS_A_ROUND = {"tiny": 2, "small": 10, "large": 3}
SAMPLED_AT_ONCE = {"tiny": 2, "small": 16}
SAMPLERS = (("ddim", 50), ("dpm_solver++", 20), ("ddpm", 1000))
DIFFUSERS = "diffusers, torch"
NUM_PHOTOGRAPHS, PHOTOGRAPH_SIZE = 64, (500, 375)


class Case(NamedTuple):
    """A row of a table: which generator of which file to run, on which backend.

    `references` are the names of the cases of the same table that this one is compared with.
    """

    name: str
    module: str
    function: str
    options: dict
    backend: str
    references: tuple = ()


class Table(NamedTuple):
    """Cases that take turns."""

    title: str
    cases: list


def training_tables(args):
    for network in args.networks:
        for policy in args.policies:
            options = {
                "network": NETWORKS[network],
                "policy": policy,
                "batch_size": BATCH_SIZES[network],
                "steps": STEPS_A_ROUND[network],
            }
            title = f"Training step, {network} network, batch {options['batch_size']}, {policy}"
            yield Table(title, beside_diffusers(args.backends, options))


def beside_diffusers(backends, options):
    """A case of training for each backend, and one for diffusers."""
    ours = [Case(b, "speed_ours", "training", options, b, (DIFFUSERS,)) for b in backends]
    return [*ours, Case(DIFFUSERS, "speed_diffusers", "training", options, "torch")]


def sampling_tables(args):
    network = "tiny" if args.networks == ["tiny"] else "small"
    for sampler, steps in SAMPLERS:
        options = {
            "network": NETWORKS[network],
            "policy": "float32",
            "num_images": SAMPLED_AT_ONCE[network],
            "steps": min(steps, 5) if network == "tiny" else steps,
        }
        with_sampler = {**options, "sampler": sampler}
        cases = [Case(DIFFUSERS, "speed_diffusers", "sampling", with_sampler, "torch")]
        for backend in args.backends:
            others = {f"{backend}: forward passes alone": "forward_passes"}
            if sampler == "ddim":  # the time does not depend on the sampler
                others[f"{backend}: predict each step"] = "predict_each_step"
            cases += [Case(name, "speed_ours", f, options, backend) for name, f in others.items()]
            name, references = f"{backend}: generate", (*others, DIFFUSERS)
            cases.append(Case(name, "speed_ours", "sampling", with_sampler, backend, references))
        images = options["num_images"]
        title = f"Sampling {images} images, {network} network, {sampler}, {options['steps']} steps"
        yield Table(title, cases)


def input_tables(args):
    network = "tiny" if args.networks == ["tiny"] else "small"
    folder = args.photographs or write_photographs(Path(args.scratch), NUM_PHOTOGRAPHS)
    options = {
        "network": NETWORKS[network],
        "policy": "float32",
        "batch_size": BATCH_SIZES[network],
        "steps": STEPS_A_ROUND[network],
    }
    backend, alone = args.backends[0], "training on arrays"
    few = {name: options[name] for name in ("network", "batch_size", "steps")}
    from_folder = {**options, "folder": str(folder)}
    yield Table(
        f"Input, {network} network, batch {options['batch_size']}, {backend}",
        [
            Case(alone, "speed_ours", "training", options, backend),
            Case(
                "training on a folder",
                "speed_ours",
                "training_from_folder",
                from_folder,
                backend,
                (alone,),
            ),
            Case("a batch alone", "speed_ours", "batches", few, backend),
        ],
    )


def start_tables(args):
    for backend in args.backends:
        keras, ours = (
            Case(f"import {module}", "speed_ours", "importing", {"module": module}, backend)
            for module in ("keras", "keras_ddpm")
        )
        yield Table(f"Import, {backend}", [keras, ours._replace(references=(keras.name,))])


def memory_tables(args):
    network = args.networks[-1]
    for size, batch_size in memory_sizes(network):
        options = {
            "network": {**NETWORKS[network], "image_size": size},
            "policy": "float32",
            "batch_size": batch_size,
            "steps": 1,
        }
        title = f"Memory of training, {network} network, {size}x{size}, batch {batch_size}"
        yield Table(title, beside_diffusers(args.backends, options))


def memory_sizes(network):
    size, batch_size = NETWORKS[network]["image_size"], BATCH_SIZES[network]
    return [(size, batch_size // 2), (size, 2 * batch_size), (2 * size, batch_size // 2)]


GROUPS = {
    "training": training_tables,
    "sampling": sampling_tables,
    "input": input_tables,
    "start": start_tables,
    "memory": memory_tables,
}


def write_photographs(folder, count):
    """JPEGs of the size that photographs on the web have; smooth noise, so that they compress."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), "uint8")
        image = Image.fromarray(coarse).resize(PHOTOGRAPH_SIZE, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:03d}.jpg", quality=90)
    return folder


class Worker:
    """The process of a case."""

    def __init__(self, case):
        self.case, self.seconds, self.facts, self.failure = case, [], {}, None
        self._errors = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "KERAS_BACKEND": case.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        spec = {k: getattr(case, k) for k in ("module", "function", "options")}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("speed_worker.py"), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.facts |= self._answer()

    def run_round(self):
        if self.failure is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            self.seconds += self._answer().values()

    def close(self):
        if self.failure is None:
            self._process.stdin.close()
            self.facts |= self._answer()
        self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().strip().splitlines()
        self.failure = words[-1] if words else f"exit status {self._process.returncode}"
        return {}

    def result(self):
        """A row for speed.json."""
        row = {**self.case._asdict(), **self.facts, "rounds": self.seconds}
        if self.failure is not None:
            return {**row, "failure": self.failure}
        if self.seconds:
            row["seconds"] = statistics.median(self.seconds)
        return row


def measure(table, rounds):
    """The rows of a table: the cases get ready one after the other, then take turns."""
    workers = []
    try:
        for case in table.cases:
            print(f"{table.title}: {case.name} gets ready", flush=True)
            workers.append(Worker(case))
        for i in range(rounds):
            print(f"{table.title}: round {i + 1} of {rounds}", flush=True)
            for worker in workers:
                worker.run_round()
    finally:
        for worker in workers:
            worker.close()
    rows = {worker.case.name: worker.result() for worker in workers}
    for row in rows.values():
        row["ratios"] = {
            name: statistics.median(theirs / ours for theirs, ours in zip(rounds, row["rounds"]))
            for name in row["references"]
            if "failure" not in row and "failure" not in rows[name]
            for rounds in [rows[name]["rounds"]]
        }
    return {"title": table.title, "rows": list(rows.values())}


def describe(results):
    """The tables, as Markdown."""
    machine = results["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in machine["packages"].items()),
        "",
        f"`{results['command']}`",
    ]
    for table in results["tables"]:
        lines += ["", f"### {table['title']}", ""]
        lines += ["| | seconds (lowest to highest) | as fast as | first | peak memory |"]
        lines += ["|---|---|---|---|---|"]
        for row in table["rows"]:
            lines.append(f"| {' | '.join(cells(row))} |")
    return "\n".join(lines) + "\n"


def cells(row):
    if "failure" in row:
        return [row["name"], f"failed: {row['failure'][:100]}", "", "", ""]
    rounds = row["rounds"]
    seconds = f"{row['seconds']:.3g} ({min(rounds):.3g} to {max(rounds):.3g})" if rounds else ""
    ratios = ", ".join(f"{ratio:.2f} × {name}" for name, ratio in row["ratios"].items())
    first = next((row[key] for key in ("first_step", "first_call") if key in row), None)
    peak = row["peak_megabytes"]
    return [
        row["name"],
        seconds,
        ratios,
        "" if first is None else f"{first:.1f} s",
        "" if peak is None else f"{peak:,.0f} MB",
    ]


def describe_machine():
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "packages": packages,
    }


def processor():
    """Its name, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)} (default: all)")
    add("--networks", nargs="+", choices=[*NETWORKS], default=["small", "large"])
    add("--policies", nargs="+", choices=POLICIES, default=[*POLICIES])
    add("--backends", nargs="+", choices=BACKENDS, default=[*BACKENDS])
    add("--rounds", type=int, default=5, help="of each case (default: %(default)s)")
    add("--photographs", help="a folder, for the group input (default: makes some up)")
    add("--output", default="runs/speed", help="folder (default: %(default)s)")
    args = parser.parse_args()
    if unknown := [name for name in args.groups if name not in GROUPS]:
        parser.error(f"GROUP must be one of {', '.join(GROUPS)}, got {unknown[0]!r}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if args.photographs and not Path(args.photographs).is_dir():
        parser.error(f"--photographs must be a folder, got {args.photographs!r}")
    args.groups = args.groups or [*GROUPS]
    return args


def main():
    args = parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/speed.py {' '.join(sys.argv[1:])}".strip()
    results = {"command": command, "machine": describe_machine(), "tables": []}
    with tempfile.TemporaryDirectory() as args.scratch:
        for group in args.groups:
            for table in GROUPS[group](args):
                results["tables"].append(measure(table, 1 if group == "memory" else args.rounds))
                (output / "speed.json").write_text(json.dumps(results, indent=1) + "\n")
                (output / "speed.md").write_text(describe(results))
    print((output / "speed.md").read_text())
    if any("failure" in row for table in results["tables"] for row in table["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
