"""Evaluating a model from the command line: whole, interrupted, extended, and refused."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tools import command, error_line_of, run_command, shared_model, tiny_network

from keras_ddpm import MLP, DiffusionModel, GaussianDiffusion, save_image
from keras_ddpm.data.drawn_flowers import CLASS_NAMES, draw_flowers
from keras_ddpm_cli import measure

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:features_.*singular covar")]

evaluate = command("evaluate")
FEW = ["--data_images", 200, "--num_images", 40, "--steps", 2, "--batch_size", 20]
PIXELS = ["--features", "pixels", "--data_images", 5, "--num_images", 8]
NEAREST = ["--parts", "nearest", "--data_images", 5, "--num_images", 8]
NETWORKS = {
    "flowers": lambda: tiny_network(16, 3, num_classes=24),
    "misnamed": lambda: tiny_network(16, 3, num_classes=24),
    "unlabelled": lambda: tiny_network(16, 3),
    "ten": lambda: tiny_network(16, 3, num_classes=10),
    "two_channels": lambda: tiny_network(16, 2),
    "grey": lambda: tiny_network(16, 1),
    "large": lambda: tiny_network(40, 3),
    "points": lambda: MLP(2, width=8),
}
NAMES = {"flowers": CLASS_NAMES, "misnamed": CLASS_NAMES[::-1]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A function from a name to the file of an untrained model."""
    folder = tmp_path_factory.mktemp("models")

    def path_of(name):
        path = folder / f"{name}.keras"
        if not path.exists():
            diffusion = GaussianDiffusion(5, "cosine", prediction="velocity")
            model = DiffusionModel(NETWORKS[name](), diffusion, class_names=NAMES.get(name))
            model.compile()
            model.save(path)
        return path

    return path_of


@pytest.fixture(autouse=True)
def small_chunks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "CHUNK", 20)


@pytest.fixture
def measured(models):
    """A function that runs the command. It returns what is in results.json."""

    def run(name, *options, output):
        run_command(evaluate, models(name), *FEW, "--output", output, *options)
        return json.loads((output / "results.json").read_text())

    return run


def chunks_of(output):
    """When each file of samples was written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("samples/*/*.npz")}


def by_images(rows, key):
    return {row["images"]: row[key] for row in rows}


def test_whole_then_interrupted_then_extended(tmp_path, monkeypatch, capsys, measured):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    results = measured("flowers", output=whole)
    output = capsys.readouterr().out
    assert output.splitlines()[-2:] == [str(whole / "results.md"), str(whole / "results.json")]
    table = (whole / "results.md").read_text()
    assert table in output and "| samples | 40 | lenet 0 |" in table
    with Image.open(whole / "samples.png") as grid:
        assert grid.size == (4 * (7 * 18 + 2), 4 * (6 * 18 + 2))
    with Image.open(whole / "nearest.png") as grid:
        assert grid.size[0] >= 512
    distances, copies = results["parts"]["distance"], results["parts"]["nearest"]
    assert results["images"] == "200 for training, 200 for test: the split test"
    assert by_images(distances, "count") == dict.fromkeys(
        ("samples", "test images", "uniform noise"), 40
    )
    frechet = by_images(distances, "Fréchet distance")
    kids = {name: value for name, (value, _) in by_images(distances, "KID").items()}
    for found in (frechet, kids):  # what the numbers are read by
        assert found["uniform noise"] > 3 * abs(found["test images"])
    assert by_images(copies, "count") == {"samples": 40, "test images": 40}
    one, other = (np.load(path)["images"] for path in sorted(chunks_of(whole)))
    assert len(one) == len(other) == 20 and not (one == other).all()

    # Interrupted after a chunk, it goes on, to the same results.
    shutil.copytree(whole / "features", resumed / "features")
    generate = DiffusionModel.generate

    def generate_once(*args, **kwargs):
        if chunks_of(resumed):
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(DiffusionModel, "generate", generate_once)
        measured("flowers", output=resumed)
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted.\n"
    first = chunks_of(resumed)
    assert len(first) == 1
    finished = measured("flowers", output=resumed)
    assert finished["parts"] == results["parts"]
    assert finished["samples"]["folder"] == results["samples"]["folder"]
    assert first.items() < chunks_of(resumed).items()

    # More samples are the same and some more.
    before = chunks_of(whole)
    more = measured("flowers", "--num_images", 50, "--parts", "distance", output=whole)
    assert before.items() < chunks_of(whole).items() and len(chunks_of(whole)) == 3
    assert by_images(more["parts"]["distance"], "count")["samples"] == 50


def test_samples_of_other_options_do_not_mix(tmp_path, models, measured):
    """In pixels, which need no labels; with more samples than test images."""
    output = tmp_path / "evaluation"
    first = measured("grey", *PIXELS, output=output)
    counts = {"samples": 8, "the first 5 samples": 5, "test images": 5, "uniform noise": 5}
    assert by_images(first["parts"]["distance"], "count") == counts
    before, folders = chunks_of(output), {first["samples"]["folder"]}
    runs = [("grey", "--steps 3"), ("grey", "--seed 1"), ("flowers", "")]
    for number, (model, change) in enumerate(runs, 2):
        results = measured(model, *NEAREST, *change.split(), output=output)
        folders.add(results["samples"]["folder"])
        assert len(folders) == number == len(chunks_of(output)), change
    assert before.items() < chunks_of(output).items()

    (path,) = before
    path.write_bytes(path.read_bytes()[:500])
    message = error_line_of(evaluate, models("grey"), *FEW, *PIXELS, "--output", output)
    assert message.startswith(f"{path} is damaged") and message.endswith("Delete it.\n")


def test_damaged_samples_end_in_a_line_that_says_to_delete_them(tmp_path):
    model, images = shared_model(), np.zeros((20, 8, 8, 1), "uint8")
    path = tmp_path / "000000.npz"
    good, _ = measure.draw_samples(model, tmp_path, 20, steps=1)
    whole = path.read_bytes()
    for damaged in (
        {"images": images},
        {"pictures": images, "seconds": 1.0},
        {"images": images[1:], "seconds": 1.0},
        {"images": images[..., 0], "seconds": 1.0},
        {"images": images.astype("float32"), "seconds": 1.0},
        {"images": images.astype(object), "seconds": 1.0},
        {"images": images, "seconds": [1.0, 2.0]},
        b"",
        whole[: len(whole) // 2],
    ):
        path.write_bytes(damaged) if isinstance(damaged, bytes) else np.savez(path, **damaged)
        with pytest.raises(ValueError) as error:
            measure.draw_samples(model, tmp_path, 20, steps=1)
        assert re.fullmatch(rf"(?s){path} is damaged \(.*\)\. Delete it\.", str(error.value))
    path.unlink()
    np.testing.assert_array_equal(measure.draw_samples(model, tmp_path, 20, steps=1)[0], good)


def test_only_an_absent_test_split_is_replaced_by_a_held_out_share(tmp_path):
    def load(name, **folders):
        for split, classes in folders.items():
            for label in classes:
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for i, image in enumerate(draw_flowers(2, image_size=16)[0]):
                    save_image(folder / f"{i}.png", image)
        return measure.load_both(name, shape=(16, 16, 3))[2]

    assert load("whole", train="ab", test="ab") == "the split test"
    assert load("none", train="ab", validation="ab") == "a share of 0.05 that is held out"
    with pytest.raises(ValueError, match="test has classes that are not among"):
        load("unknown", train="ab", test="abc")
    with pytest.raises(ValueError, match="^test_split='test' of two may be Test or testing"):
        load("two", train="ab", Test="ab", testing="ab")


def test_several_networks_and_a_held_out_share(tmp_path, monkeypatch, models, measured):
    """A folder of two classes without a test split."""
    monkeypatch.setattr("keras_ddpm.metrics.lenet.EPOCHS", 1)
    images, labels = draw_flowers(24, image_size=16)
    for i, (image, label) in enumerate(zip(images, labels % 2)):
        folder = tmp_path / "photos" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        save_image(folder / f"{i}.png", image)
    options = ["--data", "photos", "--lenet_seeds", 0, 1, "--parts", "distance"]
    options += ["--num_images", 8, "--output", tmp_path]
    results = measured("unlabelled", *options, "--validation_fraction", 0.25, output=tmp_path)
    assert results["images"].startswith("18 for training, 6 for test: a share of 0.25")
    rows = results["parts"]["distance"]
    means = [row for row in rows if row["features"] == "mean ± spread"]
    assert len(means) == 4 and len(rows) == 12
    for mean in means:
        found = [r["Fréchet distance"] for r in rows if r["images"] == mean["images"]]
        spread = [np.mean(found[:2]), abs(found[0] - found[1]) / 2**0.5]
        assert spread[1] > 0
        np.testing.assert_allclose(mean["Fréchet distance"], spread)

    # A twentieth, unless told otherwise: too few here.
    message = error_line_of(evaluate, models("unlabelled"), *FEW, *options)
    assert "photos has 23 training and 1 test images" in message


@pytest.mark.parametrize(
    "model, options, expected",
    [
        ("points", "", "generates points, not images"),
        ("two_channels", "", "pictures have 1 or 3 channels"),
        ("ten", "", "are not the 10 of"),
        ("misnamed", "", "are not the 24 of"),
        ("large", "--features pixels", "--features=pixels: 4800 in an image are more than 4096"),
        ("flowers", "--num_images 2", "--num_images=2 must be at least 3"),
        ("flowers", "--num_images 1000000000000000", "Try a smaller --num_images"),
        ("flowers", "--data_images 1000000000000", "Try a smaller --data_images"),
        ("flowers", "--data_images 0", "--data_images=0 must be at least 1"),
        ("flowers", "--lenet_seeds 0 -1", "--lenet_seeds=-1 must be at least 0"),
        ("flowers", "--train_split tset", "--train_split='tset' is unknown"),
        ("flowers", "--data_images 2", "has 2 training and 2 test images"),
        ("flowers", "--test_split tset", "--test_split='tset' is unknown"),
        ("flowers", "--test_split test --validation_fraction 0.1", "not both"),
        ("flowers", "--validation_fraction 2", "--validation_fraction=2.0 must be a number in"),
        ("flowers", "--steps 6", "--steps=6 is more than the 5 timesteps"),
        ("flowers", "--parts distance nearset", "did you mean 'nearest'"),
        ("flowers", "--features lenett", "did you mean 'lenet'"),
        ("unlabelled", "--data flat --validation_fraction 0.3", "use --features pixels"),
        ("unlabelled", "--output file/below", "cannot write to"),
    ],
)
def test_wrong_input_ends_before_sampling(tmp_path, models, model, options, expected):
    (tmp_path / "file").write_text("")
    (tmp_path / "flat").mkdir()
    for i, image in enumerate(draw_flowers(12, image_size=16)[0]):
        save_image(tmp_path / "flat" / f"{i}.png", image)
    output = tmp_path / "evaluation"
    args = [models(model), *FEW, "--data_images", 20, "--output", output, *options.split()]
    assert expected in error_line_of(evaluate, *args)
    assert not chunks_of(output)
