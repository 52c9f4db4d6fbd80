"""The evaluation of a model, run as a user runs it: whole, interrupted, extended and refused."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_network
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_mlp, evaluation
from keras_ddpm.data import draw_flowers
from keras_ddpm.data.drawn_flowers import LABEL_NAMES
from keras_ddpm.plotting import save_image

pytestmark = pytest.mark.filterwarnings("ignore:features_.*covariance is singular")

SCRIPT = Path(__file__).parents[1] / "examples" / "evaluate.py"
FEW = ["--data_images", 200, "--num_images", 40, "--steps", 2, "--batch_size", 20]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained models in files: of the embedded set, without labels, and some that do not fit."""
    folder = tmp_path_factory.mktemp("models")
    networks = {
        "flowers": tiny_network(16, 3, num_classes=24),
        "unlabelled": tiny_network(16, 3),
        "ten": tiny_network(16, 3, num_classes=10),
        "misnamed": tiny_network(16, 3, num_classes=24),
        "two_channels": tiny_network(16, 2),
        "small": tiny_network(8, 3, num_classes=24),
        "large": tiny_network(40, 3),
        "points": build_mlp(2, width=8),
    }
    names = {"flowers": LABEL_NAMES, "misnamed": LABEL_NAMES[::-1]}
    for name, network in networks.items():
        diffusion = GaussianDiffusion(5, "cosine", prediction="velocity")
        model = DiffusionModel(network, diffusion, label_names=names.get(name), seed=0)
        model.compile()
        model.save(folder / f"{name}.keras")
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 20)


@pytest.fixture
def evaluate(models, monkeypatch, tmp_path):
    """A function that runs the script in this process. It returns what is in results.json."""

    def run(name, *options, output=tmp_path / "evaluation"):
        args = [SCRIPT, models / f"{name}.keras", "--output", output, *FEW, *options]
        monkeypatch.setattr(sys, "argv", [str(arg) for arg in args])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return json.loads((output / "results.json").read_text())

    return run


def chunks_of(output):
    """When each file of samples was written."""
    return {path: path.stat().st_mtime_ns for path in Path(output).glob("samples/*/*.npz")}


def timeless(results):
    """Results without how long they took."""
    parts = {name: dict(part) for name, part in results["parts"].items()}
    for part in parts.values():
        assert part.pop("seconds") > 0
    parts["samples"]["results"] = parts["samples"]["results"]["folder"]
    return parts


def by_name(rows, key):
    return {row["images"]: row[key] for row in rows}


def test_whole_run_then_interrupted_and_extended(tmp_path, monkeypatch, capsys, evaluate):
    parts = ["--parts", "distance", "likelihood", "nearest", "--num_likelihood", 6]
    likelihood = ["--likelihood_timesteps", 3]
    whole = tmp_path / "whole"
    results = evaluate("flowers", *parts, *likelihood, output=whole)
    output = capsys.readouterr().out
    assert "samples: 40 of 40, 0:00:00 to go" in output

    # Everything that was promised is there, and named at the end.
    names = ["results.md", "results.json", "samples.png", "nearest.png", "bits.png"]
    assert output.splitlines()[-5:] == [str(whole / name) for name in names]
    table = (whole / "results.md").read_text()
    assert table in output and output.index("| samples | 40 | lenet 0 | too large") > 0
    with Image.open(whole / "samples.png") as grid:
        assert grid.size == (7 * 18 + 2, 6 * 18 + 2)
    distances = results["parts"]["distance"]["results"]
    assert [row["count"] for row in distances] == [40, 40, 40]
    for key in ("frechet", "kernel"):  # what the numbers are read by
        found = by_name(distances, key)
        assert found["uniform noise"] > 3 * abs(found["test images"])
    bits = by_name(results["parts"]["likelihood"]["results"], "bits")
    assert bits.keys() == {"training images", "test images"} and min(bits.values()) > 1

    # Again: nothing is drawn or measured, and the times stay those of the first run.
    made = chunks_of(whole)
    assert len(made) == 2
    again = evaluate("flowers", *parts, *likelihood, output=whole)
    assert again == results and "samples: " not in capsys.readouterr().out

    # Interrupted after a chunk, and again after a part: it goes on, to the same results.
    resumed = tmp_path / "resumed"
    shutil.copytree(whole / "features", resumed / "features")
    with monkeypatch.context() as patch:
        interrupt_second_call(patch, DiffusionModel, "generate")
        with pytest.raises(KeyboardInterrupt):
            evaluate("flowers", *parts, *likelihood, output=resumed)
    first = chunks_of(resumed)
    assert len(first) == 1
    with monkeypatch.context() as patch:
        interrupt_second_call(patch, evaluation, "bits_per_dim")
        with pytest.raises(KeyboardInterrupt):
            evaluate("flowers", *parts, *likelihood, output=resumed)
    partial = json.loads((resumed / "results.json").read_text())
    assert partial["parts"].keys() == {"samples", "distance"}
    finished = evaluate("flowers", *parts, *likelihood, output=resumed)
    assert timeless(finished) == timeless(results)
    assert finished["parts"]["distance"] == partial["parts"]["distance"]
    assert first.items() < chunks_of(resumed).items()

    # More samples are the same and some more; another part is kept if nothing of it changed.
    more = evaluate("flowers", "--num_images", 50, output=whole)
    assert made.items() < chunks_of(whole).items() and len(chunks_of(whole)) == 3
    assert by_name(more["parts"]["distance"]["results"], "count")["samples"] == 50
    assert more["parts"]["likelihood"] == results["parts"]["likelihood"]
    asked = ["--parts", "likelihood", "--num_likelihood", 5, *likelihood]
    changed = evaluate("flowers", "--num_images", 50, *asked, output=whole)["parts"]
    assert [row["count"] for row in changed["likelihood"]["results"]] == [5, 5]
    assert changed["distance"] == more["parts"]["distance"]


def interrupt_second_call(patch, owner, name):
    function, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    patch.setattr(owner, name, interrupted)


@pytest.mark.once
def test_samples_of_other_options_or_models_do_not_mix(tmp_path, evaluate):
    """In pixels, which need no labels; with an unlabelled model, and more samples than images."""
    output = tmp_path / "evaluation"
    pixels = ["--features", "pixels", "--data_images", 5, "--num_images", 8]
    first = evaluate("unlabelled", *pixels)
    before = chunks_of(output)
    found = by_name(first["parts"]["distance"]["results"], "count")
    expected = {"samples": 8, "the first 5 samples": 5, "test images": 5, "uniform noise": 5}
    assert found == expected
    assert first["parts"]["samples"]["inputs"]["labelled"] is False
    folders = {first["parts"]["samples"]["results"]["folder"]}
    changes = [["--sampler", "heun"], ["--eta", 1], ["--seed", 1], ["--spacing", "leading"]]
    for number, options in enumerate([*changes, ["--steps", 3]], 2):
        results = evaluate("unlabelled", *pixels, *options)
        folders.add(results["parts"]["samples"]["results"]["folder"])
        assert len(folders) == number and len(chunks_of(output)) == number
    results = evaluate("flowers", *pixels, "--labels", "none")
    assert results["parts"]["samples"]["results"]["folder"] not in folders
    assert before.items() < chunks_of(output).items()
    assert timeless(evaluate("unlabelled", *pixels)) == timeless(first)


@pytest.mark.once
def test_several_networks_and_a_held_out_share(tmp_path, capsys, evaluate):
    """A folder of two classes without a test split."""
    images, labels = draw_flowers(24, image_size=16)
    for i, (image, label) in enumerate(zip(images, labels % 2)):
        folder = tmp_path / "photos" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        save_image(folder / f"{i}.png", image)
    options = ["--data", tmp_path / "photos", "--lenet_seeds", 0, 1, "--parts", "distance"]
    results = evaluate("unlabelled", *options, "--validation_fraction", 0.25)
    assert "18 for training, 6 for test" in results["images"]
    rows = results["parts"]["distance"]["results"]
    mean = [row for row in rows if row["features"] == "mean ± spread"]
    for row in mean:
        values = [r["frechet"] for r in rows if r["images"] == row["images"]][:2]
        assert values[0] != values[1]
        assert row["frechet"] == pytest.approx(np.mean(values))
        assert row["frechet_error"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert len(mean) == 4 and len(rows) == 12

    # A twentieth, unless told otherwise: too few here.
    with pytest.raises(SystemExit):
        evaluate("unlabelled", *options)
    assert "has 23 training and 1 test images" in capsys.readouterr().err


@pytest.mark.once
def test_many_samples_of_the_data_are_close_and_some_are_memorised():
    """Drawings against drawings, with the measures alone: nothing is too large, and nothing far."""
    training, test, samples = (draw_flowers(60, image_size=16, seed=s)[0] for s in range(3))

    def means(images):
        return images.mean(axis=(1, 2))

    samples[:15] = training[:15]
    rows, grid = evaluation.measure_memorisation(samples, training, test[:30])
    assert [row["count"] for row in rows] == [60, 30]
    assert 0.25 <= rows[0]["share"] < 0.5 and rows[1]["share"] < 0.25
    rows = evaluation.measure_distances({"means": means}, samples, training, test)
    assert not any(row["is_singular"] for row in rows)
    found = by_name(rows, "frechet")
    assert 10 * found["samples"] < found["uniform noise"] > 10 * found["test images"]


@pytest.mark.once
@pytest.mark.parametrize(
    "model, options, expected",
    [
        ("nowhere", [], "there is no file"),
        ("points", [], "generates points, not images"),
        ("two_channels", [], "channels must be 3 for colour or 1 for grey, got 2"),
        ("ten", [], "has 10 classes, but drawn_flowers has 24"),
        ("misnamed", [], "has a class"),
        ("small", [], "image_size must be at least 16, got 8"),
        ("large", ["--features", "pixels"], "4800 an image are more than 4096"),
        ("unlabelled", ["--labels", "balanced"], "has no classes"),
        ("unlabelled", ["--guidance_scale", 2], "guidance_scale=2.0 needs labels"),
        ("flowers", ["--labels", "none", "--guidance_scale", 2], "needs labels"),
        ("flowers", ["--labels", "blanced"], "did you mean 'balanced'"),
        ("flowers", ["--num_images", 1], "--num_images must be at least 3"),
        ("flowers", ["--num_likelihood", 0], "--num_likelihood must be at least 1"),
        ("flowers", ["--lenet_seeds", -1], "seed must be at least 0"),
        ("flowers", ["--data_images", 2], "has 2 training and 2 test images"),
        ("flowers", ["--data", "drawn_flower"], "drawn_flowers"),
        ("flowers", ["--train_split", "trian"], "did you mean 'train'"),
        ("flowers", ["--test_split", "tset"], "did you mean 'test'"),
        ("flowers", ["--test_split", "test", "--validation_fraction", 0.1], "not both"),
        ("flowers", ["--validation_fraction", 2], "fraction must be more than 0"),
        ("flowers", ["--sampler", "ddimm"], "did you mean 'ddim'"),
        ("flowers", ["--sampler", "heun", "--eta", 1], "eta=1.0 belongs to"),
        ("flowers", ["--steps", 6], "steps=6 is more than the 5 timesteps"),
        ("flowers", ["--parts", "distance", "nearset"], "did you mean 'nearest'"),
        ("flowers", ["--features", "lenett"], "did you mean 'lenet'"),
    ],
)
def test_wrong_input_ends_before_sampling(tmp_path, capsys, evaluate, model, options, expected):
    with pytest.raises(SystemExit) as stop:
        evaluate(model, "--data_images", 20, *options)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and expected in message
    assert not chunks_of(tmp_path / "evaluation")


@pytest.mark.once
def test_wrong_folders(tmp_path, capsys, evaluate):
    def message_of(*options, output=tmp_path / "evaluation"):
        with pytest.raises(SystemExit) as stop:
            evaluate("unlabelled", *options, output=output)
        assert stop.value.code == 2 and not chunks_of(output)
        return capsys.readouterr().err.splitlines()[-1]

    (tmp_path / "file").write_text("")
    assert "cannot write to" in message_of(output=tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    assert "empty" in message_of("--data", tmp_path / "empty")
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, image in enumerate(draw_flowers(20, image_size=16)[0]):
        save_image(flat / f"{i}.png", image)
    options = ["--data", flat, "--validation_fraction", 0.3]
    assert "--features lenet needs labels" in message_of(*options)
    results = tmp_path / "evaluation" / "results.json"
    results.write_text('{"parts": ')
    assert "results.json is damaged" in message_of(*options, "--features", "pixels")
