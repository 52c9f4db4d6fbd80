"""Importing the package without the backend that Keras is to run on says what to install."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.once
# As if a package were not there, whichever of its modules is asked for.
IMPORT = """
import sys

class Missing:
    def find_spec(name, *_):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
import keras_ddpm
"""


def errors_without(package, backend):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", IMPORT, package]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_missing_backend_is_named(backend):
    error = errors_without(backend, backend)
    assert f"`pip install {backend}`, or let the environment variable KERAS_BACKEND" in error


@pytest.mark.needs("jax")  # as Keras on NumPy does
def test_a_backend_that_cannot_train_is_named():
    error = errors_without("nothing", "numpy")
    assert "ImportError: Keras runs on 'numpy'" in error and "tensorflow, jax, torch" in error


def test_another_missing_package_is_what_it_is():
    assert errors_without("PIL", "tensorflow") == "ModuleNotFoundError: No module named 'PIL'"
