"""Importing the package without the backend that Keras is to run on says what to install."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.once


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_it_is_named(backend):
    program = f"import sys; sys.modules[{backend!r}] = None; import keras_ddpm"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert f"`pip install {backend}`, or let the environment variable KERAS_BACKEND" in done.stderr


def test_other_missing_packages_are_what_they_are():
    program = "import sys; sys.modules['keras'] = None; import keras_ddpm"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "import of keras halted" in done.stderr
