"""What the commands share: models, folders, and errors of one line."""

import contextlib
import os
import re
import signal
import sys
from importlib.metadata import version

from keras_ddpm.callbacks.sampling import check_drawable
from keras_ddpm.devices import BACKEND, process
from keras_ddpm.files import make_writable
from keras_ddpm.model import load_diffusion_model
from keras_ddpm.validation import check_path

USER_ERRORS = (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
TOO_LARGE = ("Unable to allocate", "array is too big", "Maximum allowed")  # in errors of NumPy
MAX_SEED = 2**32 - 1  # that `keras.utils.set_random_seed` takes


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


def load_image_model(source, dtype_policy=None):
    """As `load_diffusion_model`, for commands that draw images."""
    check_path("model", source)
    model = load_diffusion_model(source, dtype_policy)
    if not model.is_image:
        raise ValueError(f"{source!r} generates points, not images.")
    check_drawable(model)
    return model


def output_folder(path):
    """The `Path` of `--output`, a folder that is created if need be and can be written to."""
    return make_writable(check_path("output", path))


@contextlib.contextmanager
def user_errors(
    prefix="--", errors=USER_ERRORS, interrupted="interrupted.", large="num_images", **options
):
    """Ends the program with one line instead of a traceback for errors that a user can cause.

    An error begins with the name of an argument. `prefix` makes it that of an option, and `options`
    are those that are called otherwise. Ctrl-C prints `interrupted`. `large` is the argument to
    make smaller when there is not enough memory.
    """

    def to_option(argument):
        return options.get(argument, prefix + argument)

    try:
        yield
    except KeyboardInterrupt:
        _end(130, interrupted)
    except errors as error:
        text = str(error) or repr(error)
        if any(part in text for part in TOO_LARGE):
            text = f"out of memory: {text.rstrip('.')}. Try a smaller {to_option(large)}."
        elif argument := re.match(r"[a-z_]+(?==)", text):
            text = to_option(argument[0]) + text[argument.end() :]
        _end(2, f"error: {text}")


def _end(code, line):
    print(line, file=sys.stderr, flush=True)
    if process()[1] > 1:  # JAX would wait for the other processes for minutes
        signal.raise_signal(signal.SIGKILL)
    sys.exit(code)
