"""The scripts of the folder `examples`, with less data and smaller networks."""

import runpy
import sys

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from tools import (
    ROOT,
    TINY_RUN,
    command,
    error_line_of,
    example,
    run_command,
    tiny_network,
    to_options,
)

import keras_ddpm
from keras_ddpm_cli.config import CONFIGS, parse_config
from keras_ddpm_cli.train import Run

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.once
@pytest.mark.parametrize("name", ["sample", "edit", "evaluate", "app"])
def test_a_script_is_a_command(capsys, name):
    printed = []
    for function in (example(f"{name}.py"), command(name)):
        with pytest.raises(SystemExit) as stop:
            run_command(function, "--help")
        assert stop.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].startswith(f"usage: keras-ddpm {name} ")


@pytest.mark.once
@pytest.mark.parametrize("name, config", [("flowers", "embedded"), ("mnist", "mnist")])
def test_scripts_that_train_have_a_configuration(capsys, name, config):
    with pytest.raises(SystemExit) as stop:
        run_command(example(f"{name}.py"), "--print_config", "--training.epochs", 3)
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    expected = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    assert printed["run"] == expected["run"] and printed["training"]["epochs"] == 3
    assert expected["data"].items() <= printed["data"].items()


@pytest.mark.once
def test_digits_are_grey_and_have_classes(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
    y = np.arange(20, dtype="uint8") % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    settings = {key: value for key, value in TINY_RUN.items() if not key.startswith("data.")}
    options = to_options({**settings, "run": "run", "data.data_dir": tmp_path})
    run = Run(parse_config(options, "mnist"))
    assert run.model.sample_shape == (28, 28, 1) and run.model.num_classes == 10
    np.testing.assert_array_equal(run.dataset.images[..., 0], x)
    np.testing.assert_array_equal(run.validation.images[..., 0], x[:10])
    assert not run.dataset.flip


@pytest.mark.once
def test_minimal(monkeypatch):
    def few_images(*args, **kwargs):
        return load_images(*args, **kwargs, num_images=64)

    def small_network(**kwargs):
        assert unet(**kwargs).input_shape[0] == (None, 16, 16, 3)
        return tiny_network(16, 3, num_classes=kwargs["num_classes"])

    load_images, unet = keras_ddpm.load_images, keras_ddpm.UNet
    monkeypatch.setattr(keras_ddpm, "load_images", few_images)
    monkeypatch.setattr(keras_ddpm, "UNet", small_network)
    run_command(example("minimal.py"))
    assert size_of("minimal.png") == (3 * (12 * 18 + 2), 3 * (4 * 18 + 2))
    model = keras.saving.load_model("minimal.keras")
    assert model.num_classes == 24 and model.class_names[0] == "red 4-petalled"


@pytest.fixture(scope="module")
def spiral():
    return runpy.run_path(str(EXAMPLES / "spiral.py"))["main"]


def test_spiral(monkeypatch, capsys, spiral):
    few = {"NUM_POINTS": 600, "NUM_SAMPLES": 100, "FRAMES": 3, "DURATIONS": [80, 80, 80, 3000]}
    for name, value in few.items():
        monkeypatch.setitem(spiral.__globals__, name, value)
    run_command(spiral, "--epochs", 1, "--output", "out")
    names = ["forward.gif", "reverse.gif", "samples.png", "guidance.png", "model.keras"]
    assert capsys.readouterr().out.splitlines()[-5:] == [f"out/{name}" for name in names]
    for name, panels in (("forward", 1), ("reverse", 2)):
        with Image.open(f"out/{name}.gif") as gif:
            assert gif.n_frames == 4 and gif.size == (320 * panels, 320)
    assert size_of("out/samples.png") == size_of("out/guidance.png") == (960, 320)
    assert keras.saving.load_model("out/model.keras").num_classes == 2


@pytest.mark.once
@pytest.mark.parametrize(
    "name", ["flowers", "mnist", "sample", "edit", "evaluate", "app", "spiral"]
)
def test_a_script_without_the_package_says_how_to_install_it(monkeypatch, name):
    for module in [m for m in sys.modules if m.partition(".")[0] == "keras_ddpm_cli"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "keras_ddpm_cli", None)
    with pytest.raises(
        SystemExit, match=r"^error: .*keras_ddpm_cli.*pip install -r requirements.txt"
    ):
        run_command(example(f"{name}.py"))


@pytest.mark.once
def test_wrong_options_of_spiral_end_in_one_line(tmp_path, spiral):
    (tmp_path / "file").write_text("")
    assert "--epochs=0 must be at least 1" in error_line_of(spiral, "--epochs", 0)
    assert "--seed=4294967296 must be from 0 to" in error_line_of(spiral, "--seed", 2**32)
    assert "cannot write to" in error_line_of(spiral, "--output", "file/below")
