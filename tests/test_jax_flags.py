"""Importing the package keeps XLA from computing convolutions by YNNPACK on CPUs."""

import json
import os
import subprocess
import sys

import pytest

jaxlib = pytest.importorskip("jaxlib")
pytestmark = [
    pytest.mark.once,
    pytest.mark.needs("jaxlib"),
    pytest.mark.skipif(
        not (0, 8, 2) <= jaxlib.version.__version_info__[:3] < (0, 13), reason="no such flag"
    ),
]
COMPILE = """
import json
import os
import keras_ddpm
import jax

def convolve(x, kernel):
    return jax.lax.conv(x, kernel, (1, 1), "SAME")

shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 64, 64, 64), (64, 64, 3, 3))]
program = jax.jit(convolve).lower(*shapes).compile().as_text()
print(json.dumps({"in_ynnpack": "ynn_fusion" in program, "devices": len(jax.devices("cpu")),
                   "flags": os.environ.get("XLA_FLAGS")}))
"""
FLAG = "--xla_cpu_experimental_ynn_fusion_type="


def run(flags=None):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    if flags is not None:
        environment["XLA_FLAGS"] = flags
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_convolutions_stay_with_xla():
    assert not run()["in_ynnpack"]


def test_flags_of_the_user_stay():
    done = run("--xla_force_host_platform_device_count=2")
    assert done["devices"] == 2 and not done["in_ynnpack"]
    done = run(FLAG + "individual_convolution")
    assert done["in_ynnpack"] and done["flags"] == FLAG + "individual_convolution"
