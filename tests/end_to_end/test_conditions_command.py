"""Models with images as conditions on the command line: trained, stopped, resumed and used."""

import contextlib
import re

import numpy as np
import pytest
from PIL import Image
from tools import (
    TINY_RUN,
    command,
    error_line_of,
    make_model,
    run_command,
    tiny_network,
    to_options,
)

from keras_ddpm import load_diffusion_model, upscale
from keras_ddpm.pixels import to_uint8

train, edit, sample = command("train", config=None), command("edit"), command("sample")


def run(folder, condition, **changes):
    settings = {"run": folder, **TINY_RUN, "data.condition": condition, **changes}
    run_command(train, *to_options(settings))
    return load_diffusion_model(folder / "final.keras")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a run for each kind of condition, and a photograph."""
    folder = tmp_path_factory.mktemp("runs")
    for condition in ("super_resolution", "colouring", "inpainting"):
        run(folder / condition, condition, **{"training.epochs": 1, "data.use_labels": False})
    Image.effect_mandelbrot((20, 20), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "a.png")
    mask = np.full((16, 16), 255, "uint8")
    mask[:, 8:] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    make_model(network=tiny_network(8, 3)).save(folder / "small.keras")
    return folder


def test_a_resumed_run_has_the_weights_of_one_that_was_not_stopped(tmp_path):
    labels = {"data.use_labels": True, "data.validation_fraction": 0.2}
    whole = run(tmp_path / "whole", "super_resolution", **labels)
    run(tmp_path / "parts", "super_resolution", **labels, **{"training.epochs": 1})
    parts = run(tmp_path / "parts", "super_resolution", **labels)
    for a, b in zip(whole.ema_network.get_weights(), parts.ema_network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.condition_shape == (16, 16, 4) and parts.num_classes == 24
    assert (tmp_path / "parts" / "samples.png").exists()


def pictures(folder):
    paths = sorted(folder.glob("image_*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


@pytest.mark.parametrize(
    "condition, options",
    [("super_resolution", ["--noise_level", "0.2"]), ("colouring", []), ("inpainting", ["--mask"])],
)
def test_edit_does_what_a_model_is_for(models, tmp_path, condition, options):
    options = [*options, models / "mask.png"] if condition == "inpainting" else options
    few = ["--steps", "2", "--variations", "2", "--output", tmp_path]
    path = models / condition / "final.keras"
    run_command(edit, path, models / "a.png", *options, *few)
    found = pictures(tmp_path)
    assert found.shape == (2, 16, 16, 3)
    with Image.open(tmp_path / "edit.png") as grid:
        assert grid.size[0] > 2 * grid.size[1]  # the photograph and two edits of it
    if condition == "super_resolution":
        images = [models / "a.png"] * 2
        expected = upscale(load_diffusion_model(path), images, 0.2, steps=2, seed=0)
        np.testing.assert_allclose(found, to_uint8(expected), atol=1)
    if condition == "inpainting":
        np.testing.assert_array_equal(found[0][:, :8], found[1][:, :8])
        assert (found[0][:, 8:] != found[1][:, 8:]).any()


def test_a_cascade_draws_the_small_images_enlarged(models, tmp_path):
    upscaler, options = models / "super_resolution" / "final.keras", ["--num_images", "2"]
    small, large = tmp_path / "small", tmp_path / "large"
    run_command(sample, models / "small.keras", *options, "--output", small)
    run_command(sample, models / "small.keras", *options, "--output", large, "--upscale", upscaler)
    with Image.open(large / "grid.png") as grid, Image.open(small / "grid.png") as other:
        assert grid.size != other.size
    few = load_diffusion_model(models / "small.keras").generate(2, seed=0)
    expected = upscale(load_diffusion_model(upscaler), few, seed=0)
    np.testing.assert_allclose(pictures(large), to_uint8(expected), atol=1)


def test_what_a_model_is_not_for_ends_in_one_line(models, tmp_path):
    photo, out = models / "a.png", ["--output", tmp_path]
    upscaler, painter = (models / k / "final.keras" for k in ("super_resolution", "inpainting"))
    mask = ["--mask", models / "mask.png"]
    for wrong, expected in (
        ((edit, upscaler, photo, *mask), "--model=.*SuperResolution.*: give no --mask and no --to"),
        ((edit, painter, photo), "--model=.*: give a --mask and no --to"),
        ((edit, upscaler, photo, "--noise_level", "0.9"), "--noise_level=0.9 must be a number"),
        (
            (sample, upscaler),
            "--condition=None: the model needs .* `upscale` and the command `edit`",
        ),
        ((sample, models / "small.keras", "--upscale", painter), "--upscale=.*SuperResolution"),
        ((sample, painter, "--upscale", upscaler), r"--upscale=.* enlarges images \(8, 8, 3\)"),
    ):
        assert re.match(expected, error_line_of(*wrong, *out))
    with contextlib.chdir(tmp_path):
        wrong = to_options(
            {**TINY_RUN, "data.condition": "super_resolution", "data.image_size": 17}
        )
        assert error_line_of(train, *wrong).startswith("--data.image_size=(17, 17) must be")
