"""One case of speed.py in a process of its own: gets ready, then runs a round whenever it is told.

Told by a line on standard input. It answers with a line of JSON: first facts about the case, then
what a round measured, and when there are no more lines its peak memory. What libraries print goes
to standard error.
"""

import importlib
import json
import os
import sys
from pathlib import Path


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    case = json.loads(sys.argv[1])
    for other in {"tensorflow", "jax", "torch"} - {os.environ["KERAS_BACKEND"]}:
        # Keras imports them wherever they are installed, which takes half a gigabyte that users of
        # one backend need not spend.
        sys.modules[other] = None
    rounds = getattr(importlib.import_module(case["module"]), case["function"])(**case["options"])
    print(json.dumps(next(rounds)), file=answers)
    for _ in sys.stdin:
        print(json.dumps({"seconds": next(rounds)}), file=answers)
    peaks = {"peak_megabytes": peak_megabytes(), "peak_device_megabytes": peak_device_megabytes()}
    print(json.dumps(peaks), file=answers)


def peak_megabytes():
    """The most memory that this process ever held, as far as the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def megabytes():
    """The memory that this process holds now; None where the system is not Linux."""
    path = Path("/proc/self/statm")
    return (
        int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        if path.exists()
        else None
    )


def peak_device_megabytes():
    """The most memory that arrays on a GPU ever took; None without one."""
    torch, jax = (sys.modules.get(name) for name in ("torch", "jax"))
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if jax and jax.default_backend() == "gpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    return None


if __name__ == "__main__":
    main()
