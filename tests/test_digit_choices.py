"""The benchmark of choices: two short trainings, measured, and read again the second time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[1]
CHOICES = ["as it is", "padded to 32x32"]
TINY = {
    "data.num_images": 48,
    "network.widths": "[8, 8]",
    "network.has_attention": "[false, false]",
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.warmup_steps": 0,
    "sampling.steps": 2,
    "sampling.num_images": 4,
}


def run(folder):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 192), ("test", 128)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 28, 28), "uint8")
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(folder / "mnist.npz", **arrays)
    command = [sys.executable, ROOT / "benchmarks" / "digit_choices.py"]
    return subprocess.run(
        [*command, "--output", folder / "out", "--num_samples", "100", "--lenet_seeds", "0"]
        + ["--choices", *CHOICES, "--train", *(f"--{k}={v}" for k, v in TINY.items())],
        env={**os.environ, "KERAS_DDPM_DATA": str(folder)},
        capture_output=True,
        text=True,
    )


def test_choices_are_trained_once_and_measured(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "choices.json").read_text())
    assert [*rows] == [*CHOICES, "the test images"]
    for row in rows.values():
        for kind in ("by class", "without labels"):
            mean, spread = row[kind]
            assert np.isfinite(mean) and mean > 0 and spread == 0  # one LeNet
    assert rows[CHOICES[0]]["by class"] != rows[CHOICES[1]]["by class"]
    text = (tmp_path / "out" / "choices.md").read_text()
    assert text in done.stdout and all(f"| {name} |" in text for name in rows)

    trained = sorted((tmp_path / "out").glob("*/final.keras"))
    before = [path.stat().st_mtime_ns for path in trained]
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in trained] == before and len(trained) == 2
    assert json.loads((tmp_path / "out" / "choices.json").read_text()) == rows


@pytest.mark.parametrize(
    "option, expected",
    [
        (["--threads", "0"], "must be an int of at least 1, got 0"),
        (["--num_samples", "84"], "--num_samples must be at least 100, got 84"),
        (["--choices", "anything"], "CHOICE must be one of as it is, another seed"),
    ],
)
def test_wrong_options(option, expected, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import digit_choices

    monkeypatch.setattr(sys, "argv", ["digit_choices.py", *option])
    with pytest.raises(SystemExit):
        digit_choices.parse_args()
    assert expected in capsys.readouterr().err
