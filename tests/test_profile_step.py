"""The profile of a step: every convolution is in it, and it adds up to the step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_ddpm import build_unet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BACKEND = keras.backend.backend()
# Something that every convolution runs once. In training, its kernel's gradient.
CONVOLUTION = {
    ("training", "tensorflow"): r"Conv2DBackpropFilter\w*",
    ("training", "jax"): "^conv_general_dilated$",  # itself
    ("training", "torch"): "aten::convolution_backward",
    ("sampling", "tensorflow"): "Conv2D$",
    ("sampling", "jax"): "^conv_general_dilated$",
    ("sampling", "torch"): "^aten::convolution$",
}


def run(*options):
    command = [sys.executable, BENCHMARKS / "profile_step.py", "--network", "tiny", *options]
    environment = {**os.environ, "KERAS_BACKEND": BACKEND}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.needs("jax" if BACKEND == "tensorflow" else BACKEND)
@pytest.mark.parametrize("of", ["training", "sampling"])
def test_every_convolution_is_in_it_and_it_adds_up_to_the_step(monkeypatch, of):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from speed_tables import NETWORKS

    layers = build_unet(**NETWORKS["tiny"]).layers
    convolutions = sum(
        isinstance(layer, keras.layers.Conv2D)
        # XLA makes products of matrices out of convolutions of one pixel.
        and (BACKEND != "jax" or max(layer.kernel_size) > 1)
        for layer in layers
    )
    done = run("--of", of, "--steps", "2", "--rows", "1000", "--batch_size", "128")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (.+) \| ([\d.e-]+) \| \d+% \| (\d+) \|$", done.stdout, re.MULTILINE)
    times = sum(int(n) for kind, _, n in rows if re.search(CONVOLUTION[of, BACKEND], kind))
    assert times == convolutions > 5
    if (of, BACKEND) == ("training", "tensorflow"):
        assert "compiled by XLA" in [kind for kind, *_ in rows]
    watched = float(re.search(r"step, ([\d.e-]+) s while", done.stdout)[1])
    assert 0.3 * watched < sum(float(seconds) for _, seconds, _ in rows) < 1.1 * watched


@pytest.mark.once
def test_no_steps_are_refused():
    done = run("--steps", "0")
    assert done.returncode != 0 and "--steps must be at least 1, got 0" in done.stderr
