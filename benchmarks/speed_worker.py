"""Runs one case of speed.py in a process of its own: `speed_worker.py MODULE FUNCTION ARGUMENTS`.

The function is a generator: of facts about the case first, then of the seconds of a round. Each
line on standard input asks for the next; each answer is a line of JSON. After the last round the
worker reports its peak memory. What libraries print goes to standard error.
"""

import importlib
import json
import os
import resource
import sys


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, function, arguments = sys.argv[1:]
    for other in {"tensorflow", "jax", "torch"} - {os.environ["KERAS_BACKEND"]}:
        # Keras imports every installed backend, which takes half a gigabyte that users of one
        # backend do not need.
        sys.modules[other] = None
    rounds = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(next(rounds)), file=answers)
    for _ in sys.stdin:
        print(json.dumps({"seconds": next(rounds)}), file=answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in kB
    peaks = {"peak_megabytes": peak, "peak_device_megabytes": peak_device_megabytes()}
    print(json.dumps(peaks), file=answers)


def peak_device_megabytes():
    """The most memory that arrays on a GPU took; None without a GPU."""
    torch, jax = (sys.modules.get(name) for name in ("torch", "jax"))
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if jax and jax.default_backend() == "gpu":
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    return None


if __name__ == "__main__":
    main()
