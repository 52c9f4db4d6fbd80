"""The command `keras-ddpm`.

It is a package beside the library, because `import keras_ddpm` takes seconds: it imports Keras and
a backend. Here nothing of the library is imported before the arguments are known to be right.
"""

import argparse
import contextlib
import importlib
import os
import sys
from importlib.metadata import version

from keras_ddpm_cli import parsers
from keras_ddpm_cli.config import parse_config

COMMANDS = {
    "train": "train a model on images, or go on with a run",
    "sample": "draw images with a model, and show how they emerge from noise",
    "edit": "vary, fill in or mix photographs with a model",
    "evaluate": "measure how close the samples of a model are to data",
    "app": "serve a page on which images emerge from noise",
}


def main(argv=None, config="embedded"):
    """Runs `keras-ddpm` with these arguments, by default those of the process.

    `config` is the configuration of a training that names none.
    """
    argv = sys.argv[1:] if argv is None else list(map(str, argv))
    command = _top_parser().parse_args(argv[:1]).command
    if command == "train":
        args = parse_config(argv[1:], config)
    else:
        args = getattr(parsers, command)().parse_args(argv[1:])
    try:
        with quiet():
            common = importlib.import_module("keras_ddpm_cli.common")
            module = importlib.import_module(f"keras_ddpm_cli.{command}")
    except ImportError as error:  # of a backend
        sys.exit(f"error: {error}")
    common.tune_xla()
    module.run(args)


@contextlib.contextmanager
def quiet():
    """Hides what TensorFlow's and XLA's C++ code prints, unless the user has set the variable."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    # Some lines are printed before the variable is read, while the code is loaded.
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _top_parser():
    lines = (f"  {name:10}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "keras-ddpm",
        usage="keras-ddpm COMMAND [OPTIONS]",
        description="Denoising diffusion models for Keras 3.\n\ncommands:\n" + "\n".join(lines),
        epilog="`keras-ddpm COMMAND --help` explains the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("keras-ddpm"))
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser
