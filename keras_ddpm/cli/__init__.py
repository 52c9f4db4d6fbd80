"""The commands behind `examples/*.py`."""

import argparse
import contextlib
import os
import re
import signal
import sys
from importlib.metadata import version

from keras_ddpm.devices import BACKEND, process
from keras_ddpm.model import load_diffusion_model

USER_ERRORS = (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


def tune_xla():
    """Keeps XLA for CPUs from a slow library for convolutions, unless XLA_FLAGS mentions it.

    Without this a training step with JAX takes 16 to 32 % longer. XLA ends the process at flags
    that it does not know, so this is only for versions with which it was tried.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if BACKEND != "jax" or "ynn_fusion_type" in flags:
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", version("jaxlib"))[:3])
    if (0, 8, 2) <= numbers < (0, 13):
        flag = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def make_parser(description):
    """A parser of command lines that shows a description as it is."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=formatter)


def load_image_model(source, dtype_policy=None):
    """As `load_diffusion_model`, for commands that draw images."""
    model = load_diffusion_model(source, dtype_policy)
    if not model.is_image:
        raise ValueError(f"{source!r} generates points, not images.")
    return model


@contextlib.contextmanager
def user_errors(option_prefix="--"):
    """Ends the program with one line instead of a traceback for errors that a user can cause.

    An error begins with the name of an argument, which `option_prefix` makes that of an option.
    """
    try:
        yield
    except USER_ERRORS as error:
        text = str(error) or repr(error)
        names_argument = re.match(r"[a-z_]+=", text)
        print(
            f"error: {option_prefix if names_argument else ''}{text}", file=sys.stderr, flush=True
        )
        if process()[1] > 1:  # JAX would wait for the other processes for minutes
            signal.raise_signal(signal.SIGKILL)
        sys.exit(2)
