"""The script for a GPU, with toys on the CPU: it is stopped, goes on, and leaves what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*options):
    command = [sys.executable, SCRIPT, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


def test_training_is_stopped_and_goes_on(tmp_path):
    options = ["train", "--small", "--backends", "tensorflow", "--output", tmp_path]
    stopped = run(*options, "--minutes", 0.001)
    assert stopped.returncode == 0, stopped.stderr
    assert "| train, tensorflow | goes on with the next call |" in stopped.stdout
    assert not (tmp_path / "preset").exists()

    done = run(*options)
    assert done.returncode == 0, done.stderr
    assert "| train, tensorflow | done |" in done.stdout
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert set(results) == {"train, tensorflow", "ddpm", "ddim", "dpm_solver++", "heun"}
    for name in ("ddpm.png", "heun.png", "preset/model.safetensors", "flowers64/loss.png"):
        assert (tmp_path / name).stat().st_size > 100, name


def test_a_part_that_fails_is_reported(tmp_path):
    (tmp_path / "flowers64").write_text("in the way")
    done = run("train", "--small", "--backends", "tensorflow", "--output", tmp_path)
    assert done.returncode == 1
    assert "| train, tensorflow | failed |" in done.stdout and "cannot write to" in done.stdout


@pytest.mark.parametrize(
    "options, message",
    [
        (["smok"], "PART must be one of smoke, speed, train, got 'smok'"),
        (["--minutes", "0"], "--minutes must be more than 0, got 0.0"),
        (["--backends", "numpy"], "invalid choice: 'numpy'"),
    ],
)
def test_wrong_options(options, message):
    done = run(*options)
    assert done.returncode == 2 and message in done.stderr
