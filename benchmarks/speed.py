"""How fast, beside Hugging Face diffusers and beside sampling as the keras.io examples do?

    python benchmarks/speed.py
    python benchmarks/speed.py training sampling --rounds 7 --backends tensorflow torch

Each case runs in a process of its own, and the processes of one table take turns, a round each, so
that whatever else the machine does meets them all. A ratio is the median, over rounds, of the
reference's seconds divided by the case's: above 1 is faster than the reference. Images are random;
no number depends on what they show.

Groups: training, sampling, input, start, memory, remat. Writes speed.md and speed.json. A case that
fails is reported as failed, with its last words, and the command then exits with 1.
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

from speed_tables import BACKENDS, GROUPS, NETWORKS, POLICIES, SAMPLERS

# Several processes share a GPU, and none may take all of it.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
# Under which Linux may be asked for pages of 2 MB, where it does not give them anyway: glibc 2.35.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
MOMENTS = {
    "imported_megabytes": "after imports",
    "built_megabytes": "before training",
    "traced_megabytes": "after tracing",
}
PACKAGES = ("keras", "tensorflow", "jax", "torch", "diffusers", "numpy")


class Worker:
    """The process of a case."""

    def __init__(self, case, environment):
        self.case, self.seconds, self.facts, self.failure = case, [], {}, None
        self._errors = tempfile.TemporaryFile("w+")
        environment = {**os.environ, **environment, "KERAS_BACKEND": case.backend}
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


def measure(table, rounds, environment):
    """The rows of a table: the cases get ready one after the other, then take turns."""
    workers = []
    try:
        for case in table.cases:
            print(f"{table.title}: {case.name} gets ready", flush=True)
            workers.append(Worker(case, environment))
        for i in range(rounds):
            print(f"{table.title}: round {i + 1} of {rounds}", flush=True)
            for worker in workers:
                worker.run_round()
    finally:
        for worker in workers:
            worker.close()
    rows = {worker.case.name: worker.result() for worker in workers}
    counted = [row for row in rows.values() if "flops" in row]
    for row in rows.values():
        # Those who do not count their operations do as many as another with the same options.
        row |= next(({"flops": r["flops"]} for r in counted if r["options"] == row["options"]), {})
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
        lines += [
            "| | seconds (lowest to highest) | as fast as | GFLOP/s | first | peak memory |",
            "|---|---|---|---|---|---|",
        ]
        for row in table["rows"]:
            lines.append(f"| {' | '.join(cells(row))} |")
    return "\n".join(lines) + "\n"


def cells(row):
    if "failure" in row:
        return [row["name"], f"failed: {row['failure'][:100]}", "", "", "", ""]
    rounds = row["rounds"]
    first = next((f"{row[key]:.1f} s" for key in ("first_step", "first_call") if key in row), "")
    phases = [f"{row[key]:.1f} {key}" for key in ("building", "tracing", "running") if key in row]
    host, device = row["peak_megabytes"], row["peak_device_megabytes"]
    return [
        row["name"],
        f"{row['seconds']:.3g} ({min(rounds):.3g} to {max(rounds):.3g})" if rounds else "",
        ", ".join(f"{ratio:.2f} × {name}" for name, ratio in row["ratios"].items()),
        f"{row['flops'] / row['seconds'] / 1e9:,.0f}" if rounds and "flops" in row else "",
        f"{first} ({', '.join(phases)})" if phases else first,
        ", ".join(
            f"{peak:,.0f} MB{where}"
            for peak, where in ((host, ""), (device, " on the GPU"))
            if peak is not None
        )
        + "".join(f", {row[key]:,.0f} {moment}" for key, moment in MOMENTS.items() if row.get(key)),
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
    add("--samplers", nargs="+", choices=[*SAMPLERS], default=[*SAMPLERS])
    add("--batch_size", type=int, help="of training and sampling (default: the network's)")
    add("--matrix_size", type=int, default=2048, help="of the product (default: %(default)s)")
    add("--rounds", type=int, default=5, help="of each case (default: %(default)s)")
    add("--huge_pages", action="store_true", help="of memory, by glibc on Linux")
    add("--photographs", help="a folder, for the group input (default: makes some up)")
    add("--output", default="runs/speed", help="folder (default: %(default)s)")
    args = parser.parse_args()
    if unknown := [name for name in args.groups if name not in GROUPS]:
        parser.error(f"GROUP must be one of {', '.join(GROUPS)}, got {unknown[0]!r}")
    for name in ("batch_size", "matrix_size", "rounds"):
        number = getattr(args, name)
        if number is not None and number < 1:
            parser.error(f"--{name} must be at least 1, got {number}")
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
    environment = {**ENVIRONMENT, **(HUGE_PAGES if args.huge_pages else {})}
    with tempfile.TemporaryDirectory() as args.scratch:
        for group in args.groups:
            for table in GROUPS[group](args):
                rounds = 1 if group == "memory" else args.rounds
                results["tables"].append(measure(table, rounds, environment))
                (output / "speed.json").write_text(json.dumps(results, indent=1) + "\n")
                (output / "speed.md").write_text(describe(results))
    print((output / "speed.md").read_text())
    if any("failure" in row for table in results["tables"] for row in table["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
