"""A run that is killed five times ends with the same bits as one that never was.

Its images lie in a store, as those of a set larger than memory do.
"""

import re

from tools import BACKEND, ROOT, TINY_RUN, assert_same_states, run_python, states, to_options

from keras_ddpm import load_diffusion_model, load_images, save_image

EPOCHS = 3
SETTINGS = {
    **TINY_RUN,
    "data.use_labels": True,
    "data.name": "images",
    "data.store": "store.npy",
    "data.validation_split": "valid",
    "training.epochs": EPOCHS,
    "training.batch_size": 4,
    "training.learning_rate_decay": "cosine",
    "training.warmup_steps": 7,
    # With XLA TensorFlow would compile for longer than it trains.
    "training.jit_compile": "auto" if BACKEND == "jax" else False,
}
# Each moment lies in what the ones before it left to do.
MOMENTS = [
    "killed:batch:3",  # before the first checkpoint
    "killed:half_checkpoint:2",
    "killed:checkpoint:1",
    "killed:whole_checkpoint:2",
    "killed:half_final:1",
    "killed:never:1",
    "whole:never:1",
]


def draw_folder(path):
    images = load_images("drawn_flowers", image_size=16, num_images=25)
    for i, image in enumerate(images.images):
        folder = path / ("valid" if i % 5 == 0 else "train") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        save_image(folder / f"{i}.png", image)


def test_five_kills_leave_no_trace(tmp_path):
    draw_folder(tmp_path / "images")
    output = run_python(
        ROOT / "tests" / "end_to_end" / "run_and_kill.py",
        *MOMENTS,
        *to_options(SETTINGS),
        cwd=tmp_path,
        PYTHONPATH=f"{ROOT / 'tests'}:{ROOT}",
        # What one process has compiled, the next one reads.
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "compiled"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    epochs_done = re.findall(r"^(\d+) of \d+ epochs", output, re.M)
    assert epochs_done == ["0", "0", "1", "1", "3", "3", "0"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("log.csv", "samples.png", "samples/epoch_0003.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert (killed / "log.csv").read_text().count("\n") == 1 + EPOCHS
    found, expected = (states(load_diffusion_model(f / "final.keras")) for f in (killed, whole))
    assert {name.split("_")[0] for name in expected} == {"network", "ema", "optimizer", "seeds"}
    assert_same_states(found, expected)
    assert not list(killed.rglob(".partial-*"))
