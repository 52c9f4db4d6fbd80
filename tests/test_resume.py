"""A run that is killed five times ends with the same bits as one that never was."""

import io
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "tests" / "run_and_kill.py"
BATCHES, EPOCHS = 5, 5
# Dropout and a learning rate that changes are two more states to be restored.
CONFIG = """
run: {run}
data: {{name: {images}, image_size: 8, validation_fraction: 0.2}}
diffusion: {{timesteps: 8, beta_start: 0.05, beta_end: 0.8}}
network:
  widths: [8]
  has_attention: [false]
  num_res_blocks: 1
  norm_groups: 4
  dropout: 0.1
training:
  epochs: {epochs}
  batch_size: 4
  learning_rate_decay: cosine
  warmup_steps: 7
sampling: {{steps: 2, num_images: 2, every: 2}}
"""


def write_images(folder, count=26, size=8):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")


def start(tmp_path, run, event="never", count=1):
    """Starts a run, or starts it again. Returns what it printed."""
    config = tmp_path / f"{run}.yaml"
    config.write_text(CONFIG.format(run=tmp_path / run, images=tmp_path / "images", epochs=EPOCHS))
    environment = {
        # What one process has compiled, the next finds again.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    result = subprocess.run(
        [sys.executable, RUNNER, event, str(count), "--config", config],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    expected = 0 if event == "never" else -signal.SIGKILL
    assert result.returncode == expected, result.stdout + result.stderr
    return result.stdout


def read_weights(path):
    """Everything in a `.keras` file's weights: network, EMA, optimizer and random states."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.array(item)

    with h5py.File(content) as file:
        file.visititems(collect)
    return arrays


def test_five_kills_leave_no_trace(tmp_path):
    write_images(tmp_path / "images")
    start(tmp_path, "whole")

    rng = random.Random(0)
    # Each moment lies in what the ones before it left to do.
    kills = [
        ("batch", rng.randint(1, BATCHES)),  # before the first checkpoint
        ("half_checkpoint", rng.randint(1, 2)),
        ("checkpoint", rng.randint(1, 2)),
        ("whole_checkpoint", 1),
        ("half_final", 1),
    ]
    for event, count in kills:
        start(tmp_path, "killed", event, count)
    output = start(tmp_path, "killed")
    assert f"resuming     after epoch {EPOCHS} of {EPOCHS}" in output

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    assert (killed / "log.csv").read_text().count("\n") == 1 + EPOCHS
    assert (killed / "samples.png").read_bytes() == (whole / "samples.png").read_bytes()
    expected, found = (read_weights(run / "final.keras") for run in (whole, killed))
    assert any("optimizer" in name for name in expected)
    assert any("ema_network" in name for name in expected)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert not list(killed.rglob(".partial-*"))
