"""How many threads TensorFlow and PyTorch take: to be said before either is imported."""

import argparse
import os


def add_threads_option(parser):
    parser.add_argument("--threads", type=_positive, help="of TensorFlow and PyTorch")


def limit_threads(count):
    """As many as that; None leaves it to them."""
    if count is not None:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(count)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an int of at least 1, got {text}")
    return int(text)
