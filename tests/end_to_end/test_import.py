"""What an import of the package says without a backend, and what it leaves to the commands."""

import json
import os

import pytest
from tools import run_python

from keras_ddpm_cli import common

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


@pytest.mark.parametrize(
    "package, backend, expected",
    [
        ("torch", "torch", "`pip install torch`, or set the environment variable KERAS_BACKEND"),
        ("keras", "tensorflow", "No module named 'keras'"),
        pytest.param(  # Keras on NumPy imports JAX
            "nothing", "numpy", "KERAS_BACKEND=numpy cannot train", marks=pytest.mark.needs("jax")
        ),
    ],
)
def test_what_is_missing_is_named(package, backend, expected):
    done = run_python("-c", IMPORT, package, backend=backend, check=False)
    assert done.returncode == 1
    assert expected in done.stdout.strip().splitlines()[-1]


FLAG = "--xla_cpu_experimental_ynn_fusion_type="
OTHER = "--xla_force_host_platform_device_count=2"


@pytest.mark.parametrize(
    "backend, version, before, after",
    [
        ("jax", "0.9.1", "", FLAG + "-individual_convolution"),
        ("jax", "0.8.2.dev3", OTHER, f"{OTHER} {FLAG}-individual_convolution"),
        ("jax", "0.9.1", FLAG + "individual_convolution", FLAG + "individual_convolution"),
        ("jax", "0.8.1", "", ""),  # XLA would end the process at an unknown flag
        ("jax", "0.13.0", "", ""),
        ("torch", "0.9.1", "", ""),
    ],
)
def test_commands_set_one_flag_and_leave_those_of_the_user(
    monkeypatch, backend, version, before, after
):
    monkeypatch.setattr(common, "BACKEND", backend)
    monkeypatch.setattr(common, "version", lambda package: version)
    monkeypatch.setenv("XLA_FLAGS", before)
    common.tune_xla()
    assert os.environ["XLA_FLAGS"] == after


COMPILE = """
import json, os
from keras_ddpm_cli import app, common, edit, evaluate, sample, train
import jax
before = os.environ.get("XLA_FLAGS")
common.tune_xla()
shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 64, 64, 64), (64, 64, 3, 3))]
convolve = jax.jit(lambda x, kernel: jax.lax.conv(x, kernel, (1, 1), "SAME"))
program = convolve.lower(*shapes).compile().as_text()
print(json.dumps({"before": before, "is_slow": "ynn_fusion" in program}))
"""


@pytest.mark.needs("jax")
def test_the_flag_has_its_effect_after_the_import(monkeypatch):
    """Modules of the commands set nothing, nor do they compute anything that makes XLA read it."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    output = run_python("-c", COMPILE, backend="jax", JAX_PLATFORMS="cpu")
    assert json.loads(output.splitlines()[-1]) == {"before": None, "is_slow": False}
