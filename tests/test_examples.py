"""The example scripts, run as a user runs them, with tiny settings."""

import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from PIL import Image

from keras_ddpm import DiffusionModel, GaussianDiffusion, build_unet

ROOT = Path(__file__).parent.parent
TINY = {
    "data.image_size": 24,  # the embedded set's smallest
    "data.num_images": 20,
    "diffusion.timesteps": 8,
    "diffusion.beta_start": 0.05,
    "diffusion.beta_end": 0.8,
    "network.widths": "[8]",
    "network.has_attention": "[false]",
    "network.num_res_blocks": 1,
    "network.norm_groups": 4,
    "training.epochs": 2,
    "training.batch_size": 8,
    "sampling.steps": 2,
    "sampling.num_images": 4,
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_here(monkeypatch, script, *args):
    """Runs an example in this process: starting another takes longer than training."""
    path = str(ROOT / "examples" / script)
    monkeypatch.setattr(sys, "argv", [path, *map(str, args)])
    runpy.run_path(path, run_name="__main__")


def train(monkeypatch, run, **changes):
    """Runs `flowers.py`; where `TINY` and `changes` are silent, with the defaults."""
    empty = Path.cwd() / "empty.yaml"
    empty.write_text(f"run: {run}\n")
    settings = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    options = [text for key, value in settings.items() for text in (f"--{key}", value)]
    run_here(monkeypatch, "flowers.py", "--config", empty, *options)


def error_of(capsys, function, *args, **kwargs):
    """What a script prints before it exits with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        function(*args, **kwargs)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_run_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    labelled = {"data__use_labels": "true", "data__validation_split": "validation"}
    train(monkeypatch, run, **labelled)
    output = capsys.readouterr().out
    described, _, trained = output.partition("Epoch 1/2")
    for line in ("parameters", "20 for training, 20 for validation", "2 an epoch", "backend"):
        assert line in described  # before the first step
    assert str(run / "final.keras") in trained

    kept = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert kept == {
        "config.yaml",
        "log.csv",
        "loss.png",
        "samples.png",
        "final.keras",
        "samples/epoch_0001.png",
        "samples/epoch_0002.png",
        "checkpoints/epoch_0001.keras",
        "checkpoints/epoch_0002.keras",
    }
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["training"]["epochs"] == 2 and saved["network"]["widths"] == [8]
    header, *rows = (run / "log.csv").read_text().splitlines()
    assert {"loss", "val_loss", "sample_mean_red", "data_mean_red"} <= set(header.split(","))
    assert len(rows) == 2
    model = keras.saving.load_model(run / "final.keras")
    assert model.num_classes == 24  # the classes of the embedded set, not of these 20 images

    # Again: there is nothing left to do.
    changed = (run / "final.keras").stat().st_mtime_ns
    train(monkeypatch, run, **labelled)
    assert "is finished: 2 epochs are done" in capsys.readouterr().out
    assert (run / "final.keras").stat().st_mtime_ns == changed

    # Longer: it goes on. And not otherwise than it began.
    train(monkeypatch, run, training__epochs=3, **labelled)
    assert "resuming     after epoch 2 of 3" in capsys.readouterr().out
    assert len((run / "log.csv").read_text().splitlines()) == 4
    labelled["training__learning_rate"] = 1e-3
    message = error_of(capsys, train, monkeypatch, run, training__epochs=3, **labelled)
    assert "training.learning_rate: 0.0002 -> 0.001" in message
    assert "--training.init_from" in message

    # Fine-tuning begins with the averaged weights of a finished run, or of a preset.
    labelled["training__init_from"] = run / "final.keras"
    message = error_of(
        capsys, train, monkeypatch, tmp_path / "wide", network__widths="[16]", **labelled
    )
    assert "is not the configured one" in message
    source = keras.saving.load_model(run / "final.keras")
    preset = source.save_to_preset(tmp_path / "preset", dtype="float32")
    labelled |= {"training__init_from": preset, "training__learning_rate": 1e-12}  # stands still
    train(monkeypatch, tmp_path / "tuned", training__epochs=1, **labelled)
    tuned = keras.saving.load_model(tmp_path / "tuned" / "final.keras")
    pairs = zip(tuned.network.get_weights(), source.ema_network.get_weights(), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.once
@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"sampling__sampler": "dimm"}, "did you mean 'ddim'"),
        # Before the images are loaded: this data set is not there.
        (
            {
                "logging__callbacks": "[{class_path: keras.callbacks.CSVLoger}]",
                "data__name": "nowhere",
            },
            "has no attribute 'CSVLoger'",
        ),
        ({"data__name": "drawn_flower"}, "drawn_flowers"),
        ({"data__split": "trian"}, "validation"),
        ({"training__batch_size": 21}, "batch_size=21"),
        ({"training__devices": 99}, "devices=99, but there"),
        ({"network__norm_groups": 3}, "divisible by norm_groups=3"),
        ({"sampling__steps": 9}, "sampling.steps=9 is more than diffusion.timesteps=8"),
        ({"training__init_from": "nowhere.keras"}, "there is no file 'nowhere.keras'"),
        (
            {"training__learning_rate_decay": "cosine", "training__warmup_steps": 4},
            "leaves none of 4 steps",
        ),
    ],
)
def test_wrong_input_ends_before_training(tmp_path, monkeypatch, capsys, changes, expected):
    assert expected in error_of(capsys, train, monkeypatch, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "log.csv").exists()


@pytest.mark.once
def test_too_few_are_held_out_for_several_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_ddpm.devices.use_devices", lambda devices: 4)
    held_out = {"data__validation_split": "null", "data__validation_fraction": 0.1}
    message = error_of(capsys, train, monkeypatch, tmp_path / "run", **held_out)
    assert "held-out images are not one for each of 4 devices" in message


@pytest.mark.once
def test_default_is_the_embedded_set(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run_here(monkeypatch, "flowers.py", "--print_config", "--training.epochs", 3)
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["name"] == "drawn_flowers" and config["run"] == "runs/embedded"
    assert config["training"]["epochs"] == 3


@pytest.mark.once
def test_help_names_the_backends(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples")
    for script in ("flowers.py", "mnist.py", "sample.py", "evaluate.py", "app.py"):
        with pytest.raises(SystemExit) as stop:
            run_here(monkeypatch, script, "--help")
        assert stop.value.code == 0
        assert "KERAS_BACKEND" in capsys.readouterr().out


@pytest.mark.once
def test_the_page_says_what_it_needs_and_what_it_cannot_read(monkeypatch, capsys):
    """What it does with Gradio is in test_app.py, which is skipped without."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    message = error_of(capsys, run_here, monkeypatch, "app.py")
    assert message == 'error: the page needs Gradio: pip install -e ".[app]"\n'
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    message = error_of(capsys, run_here, monkeypatch, "app.py", "--model", "nowhere.keras")
    assert message == "error: there is no file 'nowhere.keras'.\n"


@pytest.mark.once
def test_run_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    message = error_of(capsys, train, monkeypatch, tmp_path / "file" / "run")
    assert "cannot write to" in message and "Choose another folder" in message


@pytest.mark.once
@pytest.mark.parametrize("use_labels, rows", [("true", 4), ("false", 1)])
def test_digits(tmp_path, monkeypatch, use_labels, rows):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 28, 28), "uint8"), np.arange(20, dtype="uint8") % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    monkeypatch.syspath_prepend(ROOT / "examples")
    options = {key: value for key, value in TINY.items() if not key.startswith("data")}
    options |= {"run": "run", "data.data_dir": tmp_path, "data.use_labels": use_labels}
    options |= {"training.learning_rate_decay": "constant", "training.epochs": 1}
    if use_labels == "false":
        options["sampling.guidance_scale"] = 1
    arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
    run_here(monkeypatch, "mnist.py", *arguments)
    with Image.open("run/digits.png") as picture:  # a row without labels, and one a scale
        assert picture.size == (2 * (10 * 30 + 2), 2 * (rows * 30 + 2)) and picture.mode == "L"
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    assert saved["data"]["name"] == "mnist" and saved["training"]["batch_size"] == 8
    assert "val_loss" in Path("run/log.csv").read_text()


@pytest.mark.once
def test_gradients_of_several_batches_make_a_step(tmp_path, monkeypatch):
    """Two epochs of two batches are one step of three, and one that waits for two more."""
    train(monkeypatch, tmp_path / "run", training__gradient_accumulation=3)
    optimizer = keras.saving.load_model(tmp_path / "run" / "final.keras").optimizer
    assert optimizer.gradient_accumulation_steps == 3 and int(optimizer.iterations) == 1
    train(monkeypatch, tmp_path / "one")
    optimizer = keras.saving.load_model(tmp_path / "one" / "final.keras").optimizer
    assert optimizer.gradient_accumulation_steps is None and int(optimizer.iterations) == 4


@pytest.mark.once
def test_a_run_may_compute_its_blocks_twice(tmp_path, monkeypatch):
    for name, remat in (("kept", "false"), ("again", "true")):
        train(monkeypatch, tmp_path / name, training__remat=remat, training__epochs=1)
    kept, again = (
        keras.saving.load_model(tmp_path / name / "final.keras") for name in ("kept", "again")
    )
    assert (kept.remat, again.remat) == (False, True)
    for a, b in zip(kept.get_weights(), again.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A conditional model that was hardly trained, of grey images."""
    network = build_unet(8, 1, (8,), (False,), num_res_blocks=1, norm_groups=4, num_classes=2)
    diffusion = GaussianDiffusion(8, beta_start=0.05, beta_end=0.8)
    model = DiffusionModel(network, diffusion, label_names=("rose", "tulip"), seed=0)
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model.compile()
    model.save(path)
    return path


def test_sample(tmp_path, monkeypatch, trained):
    options = ["--num_images", 3, "--steps", 4, "--labels", 0, 1, "--eta", 0.5]
    run_here(monkeypatch, "sample.py", trained, "--output", tmp_path / "a", *options)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    pictures = [f"image_000{i}.png" for i in range(3)]
    assert names == ["filmstrip.png", "grid.png", *pictures, "process.gif"]
    with Image.open(tmp_path / "a" / "image_0002.png") as image:
        assert image.size == (8, 8) and image.mode == "L"
    with Image.open(tmp_path / "a" / "process.gif") as gif:
        assert gif.n_frames == 5  # four steps, and the result
        assert gif.size == (8 * 2 * 22, 8 * 22)  # 8x8 pixels are shown as 64x64
        gif.seek(4)
        assert gif.info["duration"] == 3000
    run_here(monkeypatch, "sample.py", trained, "--output", tmp_path / "b", *options)
    grids = [(tmp_path / run / "grid.png").read_bytes() for run in "ab"]
    assert grids[0] == grids[1]


@pytest.mark.once
def test_sample_takes_names_guidance_and_spacing(tmp_path, monkeypatch, trained):
    """The network's last layer is zero, so only the fresh noise of eta and the clipping show."""
    common = [trained, "--num_images", 2, "--steps", 3, "--guidance_scale", 2.0]
    for folder, labels in (("names", ["tulip", "rose"]), ("numbers", [1, 0])):
        options = ["--output", tmp_path / folder, "--labels", *labels, "--spacing", "leading"]
        run_here(monkeypatch, "sample.py", *common, *options)
    names, numbers = ((tmp_path / f / "grid.png").read_bytes() for f in ("names", "numbers"))
    assert names == numbers
    with Image.open(tmp_path / "names" / "filmstrip.png") as strip:  # 3 steps and the result
        assert strip.size == (8 * (4 * 10 + 2), 8 * (2 * 2 * 10 + 2))


@pytest.mark.once
@pytest.mark.parametrize(
    "options, expected",
    [
        (["--labels", "rsoe"], "did you mean 'rose'"),
        (["--guidance_scale", "2"], "guidance_scale=2.0 needs labels"),
        (["--spacing", "even"], "spacing='even' is unknown"),
        (["--sampler", "ddimm"], "did you mean 'ddim'"),
        (["--steps", "9"], "steps=9"),
        (["--num_images", "0"], "--num_images must be at least 1"),
        (["--labels", "2"], "must lie in [0, 1]"),
        (["--sampler", "ddpm", "--eta", "1"], "eta=1.0 belongs to"),
    ],
)
def test_sample_refuses_wrong_options(tmp_path, monkeypatch, capsys, trained, options, expected):
    args = [trained, "--output", tmp_path, *options]
    assert expected in error_of(capsys, run_here, monkeypatch, "sample.py", *args)


@pytest.mark.once
def test_sample_refuses_wrong_files(tmp_path, monkeypatch, capsys, trained):
    def message_of(path, output=tmp_path / "out"):
        return error_of(capsys, run_here, monkeypatch, "sample.py", path, "--output", output)

    assert "there is no file" in message_of(tmp_path / "nowhere.keras")
    half = tmp_path / "half.keras"
    half.write_bytes(trained.read_bytes()[:1000])
    assert "truncated" in message_of(half)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    assert "not a DiffusionModel" in message_of(tmp_path / "other.keras")
    assert "cannot write to" in message_of(trained, half / "below")
    missing = "--preset", "drawn_flowers_61"
    assert "drawn_flowers_16" in error_of(capsys, run_here, monkeypatch, "sample.py", *missing)


@pytest.mark.once
def test_sample_finds_a_preset_by_option(tmp_path, monkeypatch):
    options = ["--preset", "drawn_flowers_16", "--num_images", 2, "--steps", 2]
    run_here(monkeypatch, "sample.py", *options, "--output", tmp_path)
    with Image.open(tmp_path / "image_0001.png") as image:
        assert image.size == (16, 16)


def test_sample_as_a_command_in_any_folder(tmp_path, trained):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "sample.py", trained, "--num_images", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(Path("samples", "filmstrip.png"))
    assert (tmp_path / "samples" / "image_0001.png").is_file()
