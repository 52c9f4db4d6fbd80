"""The command `keras-ddpm` as a process: how fast it explains itself, and what it prints."""

import keras
import numpy as np
import pytest
from PIL import Image
from tools import (
    TINY_RUN,
    command,
    error_line_of,
    make_model,
    run_command,
    run_python,
    tiny_network,
    to_options,
)

from keras_ddpm import image_to_image, save_image
from keras_ddpm.pixels import to_uint8
from keras_ddpm_cli import COMMANDS, main

HELP = """
import sys
from keras_ddpm_cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
heavy = {"keras", "tensorflow", "jax", "torch", "keras_ddpm", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.once
@pytest.mark.parametrize("args", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_imports_neither_the_library_nor_a_backend(args):
    assert "usage: keras-ddpm" in run_python("-c", HELP, *args, "--help")


@pytest.mark.once
def test_wrong_commands_and_options_are_refused_before_any_import(capsys):
    for args in ([], ["trian"], ["sample"], ["train", "--config", "nowhere"], ["app", "--prt", 1]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2 and "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.strip()


def test_a_first_run_prints_two_lines_before_training(tmp_path, monkeypatch):
    """Nothing of a backend's C++ code, which a process prints once."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    options = to_options({**TINY_RUN, "training.epochs": 1, "run": "run"})
    output = run_python("-m", "keras_ddpm_cli", "train", *options, cwd=tmp_path)
    before = output[: output.index("run/final.keras")].splitlines()
    assert " parameters, " in before[0] and " steps are done" in before[1], output
    assert len([line for line in before if "cuda" in line.lower() or "absl" in line]) == 0, output


def test_python_can_run_the_package(tmp_path):
    output = run_python("-m", "keras_ddpm", "--help", cwd=tmp_path)
    assert "usage: keras-ddpm" in output


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    network = tiny_network(16, 3, num_classes=2)
    make_model(network=network, class_names=("rose", "tulip")).save(path)
    return path


@pytest.fixture
def photographs(tmp_path):
    """Two files, larger than the images of the model and not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), "uint8")
    for name, photograph in zip("ab", pixels):
        save_image(tmp_path / f"{name}.png", photograph)
    mask = np.zeros((40, 56, 1), "uint8")
    mask[:, :28] = 255
    save_image(tmp_path / "mask.png", mask)
    return tmp_path


def test_edit_varies_fills_in_and_mixes(model_file, photographs):
    a, b = photographs / "a.png", photographs / "b.png"
    few = ["--steps", 4, "--seed", 3, "--output"]

    def edit(name, *options):
        out = photographs / name
        run_command(command("edit"), model_file, *options, *few, out)
        files = sorted(path.name for path in out.glob("image_*.png"))
        images = [np.asarray(Image.open(out / name)) for name in files]
        with Image.open(out / "edit.png") as picture:
            assert picture.width >= 512
        return files, images

    files, images = edit("vary", a, b, "--variations", 2, "--labels", "tulip", "0")
    assert files == [f"image_{i:04d}_{j}.png" for i in (0, 1) for j in (0, 1)]
    model = keras.saving.load_model(model_file)
    labels = ["tulip", "tulip", "rose", "rose"]
    expected = image_to_image(model, [a, Image.open(a), b, str(b)], labels=labels, steps=4, seed=3)
    assert np.abs(np.stack(images).astype(int) - to_uint8(expected)).max() <= 1

    _, (kept,) = edit("fill", a, "--mask", photographs / "mask.png", "--variations", 1)
    _, (first, *_) = edit("mix", a, "--to", b, "--strength", 0)
    np.testing.assert_array_equal(kept[:, :7], first[:, :7])  # the photograph itself
    assert np.abs(kept[:, 9:].astype(int) - first[:, 9:]).max() > 5


def test_wrong_edits_end_in_one_line(model_file, photographs):
    edit, a = command("edit"), photographs / "a.png"
    (photographs / "damaged.png").write_bytes(b"PNG")
    for options, expected in (
        (["nowhere.png"], "IMAGES='nowhere.png': there is no such file"),
        ([photographs / "damaged.png"], "cannot be read"),
        ([a, "--strength", 2], "--strength=2.0 must be a number in [0, 1]"),
        ([a, "--labels", "lily"], "--labels='lily' is no class"),
        ([a, "--mask", "m.png", "--to", a], "give --mask or --to, not both"),
        ([a, "--mask", "m.png"], "--mask='m.png': there is no such file"),
        ([a, "--to", "b.png"], "--to='b.png': there is no such file"),
        ([a, "--variations", 0], "--variations=0 must be at least 1"),
    ):
        message = error_line_of(edit, model_file, *options, "--output", photographs / "out")
        assert expected in message, message
