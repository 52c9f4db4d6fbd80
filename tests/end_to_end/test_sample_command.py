"""Drawing images from the command line: the files, the options, and what is refused."""

import os
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from tools import command, error_line_of, make_model, random_weights, run_command, tiny_network

from keras_ddpm import MLP, UNet, load_diffusion_model
from keras_ddpm.pixels import to_uint8
from keras_ddpm_cli import sample as module
from keras_ddpm_cli.sample import parse_labels

sample = command("sample")


def save_model(path, network):
    make_model(network=network, class_names=("rose", "tulip")).save(path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model of grey images with two classes."""
    path = tmp_path_factory.mktemp("models") / "model.keras"
    return save_model(path, tiny_network(num_classes=2))


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


OPTIONS = "--num_images 3 --steps 4 --eta 0.5 --guidance_scale 2 --spacing leading --seed 7"
OPTIONS = [*OPTIONS.split(), "--sampler", "dpm_solver++", "--dtype_policy", "mixed_bfloat16"]


def test_the_files_hold_what_generate_draws(tmp_path, capsys):
    network = random_weights(UNet(8, 1, (8,), (False,), 1, norm_groups=4, num_classes=2))
    path, out = save_model(tmp_path / "unet.keras", network), tmp_path / "out"
    run_command(sample, path, *OPTIONS, "--labels", "tulip", "0", "--output", out)
    names = ["image_0000.png", "grid.png", "process.gif", "filmstrip.png"]
    said, *paths = capsys.readouterr().out.splitlines()
    assert said == f"3 images of {path} go to {out}" and paths == [str(out / n) for n in names]
    assert {p.name for p in out.iterdir()} == {*names, "image_0001.png", "image_0002.png"}

    model = load_diffusion_model(path, "mixed_bfloat16")
    options = {"steps": 4, "eta": 0.5, "guidance_scale": 2.0, "spacing": "leading", "seed": 7}
    images = model.generate(labels=[1, 0, 1], sampler="dpm_solver++", **options)
    for i, image in enumerate(to_uint8(images)):
        np.testing.assert_array_equal(read(out / f"image_{i:04d}.png"), image[..., 0])
    assert read(out / "grid.png").shape == (24 * 22, 24 * 22)  # at least 512 pixels wide
    assert read(out / "filmstrip.png").shape == (10 * (6 * 10 + 2), 10 * (5 * 10 + 2))
    with Image.open(out / "process.gif") as gif:
        assert gif.n_frames == 5  # four steps, and the result
        assert gif.size == (12 * 2 * 22, 12 * 22)
        gif.seek(4)
        assert gif.info["duration"] == 3000


@pytest.mark.once
def test_of_many_images_the_first_are_shown_emerging(tmp_path, monkeypatch, path):
    """From a preset; with the process of two of three images."""
    preset = load_diffusion_model(path).save_to_preset(tmp_path / "preset", dtype="float32")
    few, many = tmp_path / "few", tmp_path / "many"
    few_options = ["--num_images", 2, "--steps", 2, "--output", few]
    run_command(sample, preset, *few_options)
    monkeypatch.setattr(module, "MAX_IMAGES_IN_GIF", 2)
    run_command(sample, preset, *few_options, "--num_images", 3, "--output", many)
    for name in ("image_0000.png", "image_0001.png", "process.gif"):
        assert (few / name).read_bytes() == (many / name).read_bytes()
    assert (many / "image_0002.png").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    "options, expected",
    [
        (["--labels", "rsoe"], "--labels='rsoe' is no class: .* did you mean 'rose'"),
        (["--labels", "rose", 2], "--labels='2' is no class: the model has 2 classes"),
        (["--labels", "\u00b2"], "--labels='\u00b2' is no class"),
        (["--labels", "a\nb"], r"--labels='a\\nb' is no class"),
        (["--guidance_scale", 2], "--guidance_scale=2.0 needs labels"),
        (["--num_images", 0], "--num_images=0 must be at least 1"),
        (["--num_images", 10**15, "--steps", 1], "out of memory: .* Try a smaller --num_images"),
        (["--num_images", 10**25, "--steps", 1], "out of memory: .* Try a smaller --num_images"),
        (["--seed", -1], "--seed=-1 must be at least 0"),
        (["--devices", 64], "--devices=64"),
        (["--dtype_policy", "float8"], "--dtype_policy='float8' is unknown; choose one of"),
        (["--output", "file/below"], "cannot write to 'file/below'"),
        (["--output", ""], "--output='' must be a path"),
    ],
)
def test_wrong_options_end_in_one_line(tmp_path, monkeypatch, path, options, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "MAX_IMAGES_IN_GIF", 1)
    (tmp_path / "file").write_text("")
    message = error_line_of(sample, path, *options)
    assert re.match(expected, message), message


@pytest.mark.once
def test_what_is_no_model_ends_in_one_line(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "other.keras")
    make_model(network=MLP(2, width=8)).save(tmp_path / "points.keras")
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "fifo.keras")
    (tmp_path / "empty.keras").touch()
    for source, expected in (
        ("nowhere.keras", "there is no file"),
        ("folder.keras", "there is no file"),
        ("fifo.keras", "there is no file"),
        ("empty.keras", "is damaged, truncated, or no .keras file"),
        ("other.keras", "not a DiffusionModel"),
        ("points.keras", "generates points, not images"),
        ("drawn_flowers_61", "drawn_flowers_16"),
    ):
        message = error_line_of(sample, tmp_path / source, "--output", tmp_path / "out")
        assert source in message and expected in message
    assert error_line_of(sample, "").startswith("--model='' must be a path")


@pytest.mark.once
def test_a_label_is_a_name_or_else_a_number():
    def parse(labels, *names):
        return parse_labels(labels, SimpleNamespace(class_names=names or None, num_classes=3))

    assert parse(["2", "0", "1"], "0", "2", "1") == [1, 0, 2]
    assert parse(["2", 2, "1", "30"], "2", "10", "30") == [0, 2, 1, 2]
    assert parse(["rose", 0, "2"], "tulip", "rose", "iris") == [1, 0, 2]
    assert parse("1") == parse(1) == [1] and parse(["2", "0"]) == [2, 0]
    long = "x" * 10**6
    for label in (3, "3", -1, "-1", "01", "\u00b2", None, True, 1.0, 1.5, [1], {"a": 1}, "", long):
        with pytest.raises(
            ValueError, match="^labels=.{1,60} is no class: the model has 3 classes"
        ):
            parse([0, label])
