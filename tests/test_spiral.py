"""The example on points, run as a user runs it, with tiny settings."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "spiral.py"


def test_it_writes_what_it_says(tmp_path):
    options = ["--data", "moons", "--num_points", "100", "--epochs", "1", "--guidance_scale", "2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, EXAMPLE, *options, "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    names = ["forward.gif", "reverse.gif", "samples.png", "guidance.png", "model.keras"]
    assert result.stdout.splitlines()[-5:] == [str(Path("out", name)) for name in names]
    assert "trained in" in result.stdout
    out = tmp_path / "out"
    distances = {
        line.rsplit(maxsplit=1)[0].strip(): float(line.rsplit(maxsplit=1)[1])
        for line in result.stdout.splitlines()
        if line.startswith("  ")
    }
    # One update teaches nothing; the optimal denoiser needs none, and has the data themselves.
    assert distances["optimal denoiser"] < 0.1 < 0.2 < distances["network"]
    for name, panels in (("forward", 1), ("reverse", 2)):
        with Image.open(out / f"{name}.gif") as gif:
            assert gif.n_frames == 41 and gif.size == (320 * panels, 320)
    for name in ("samples", "guidance"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size == (960, 320)
    assert keras.saving.load_model(out / "model.keras").num_classes == 2


@pytest.mark.once
@pytest.mark.parametrize(
    "options, expected",
    [
        (["--data", "spirals"], "did you mean 'spiral'?"),
        (["--num_points", "99"], "--num_points must be at least 100, got 99"),
        (["--guidance_scale", "nan"], "--guidance_scale must be at least 0, got nan"),
        (["--output", "file/below"], "cannot write to"),
    ],
)
def test_wrong_options_end_in_one_line(tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setattr(sys, "argv", ["spiral.py", *options])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    output = capsys.readouterr()
    assert stop.value.code == 2 and not output.out
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert expected in output.err
