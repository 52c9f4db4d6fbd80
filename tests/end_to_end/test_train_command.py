"""Training from the command line: what a run writes, how it goes on, and what it refuses."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from tools import (
    TINY_RUN,
    assert_same_states,
    command,
    error_line_of,
    error_of,
    example,
    run_command,
    states,
    to_numpy,
    to_options,
)

from keras_ddpm.diffusers import to_diffusers
from keras_ddpm.files import LOCK
from keras_ddpm_cli.config import parse_config, save_config
from keras_ddpm_cli.train import Run

flowers = example("flowers.py")
train = command("train", config=None)
FILES = {"config.yaml", "log.csv", "loss.png", "samples.png", "final.keras"}
FILES |= {f"samples/epoch_000{epoch}.png" for epoch in (1, 2)}
FILES |= {f"checkpoints/epoch_000{epoch}.keras" for epoch in (1, 2)}


def options(changes=()):
    """Options of a tiny run."""
    return to_options({"run": "run", **TINY_RUN, **dict(changes)})


def is_shown(path):
    return path.is_file() and not path.name.startswith(".")


def read_log(path):
    return np.genfromtxt(path, delimiter=",", names=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder where `examples/flowers.py` ran, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    other = {"class_path": "keras.callbacks.CSVLogger", "init_args": {"filename": "other.csv"}}
    settings = {"logging.callbacks": [other], "data.num_images": 40}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        run_command(flowers, *options(settings))
    return folder, printed.getvalue()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(first, tmp_path):
    """A copy of that run, in this folder."""
    return shutil.copytree(first[0] / "run", tmp_path / "run")


def test_a_run_writes_and_prints_what_it_should(first):
    folder, output = first
    described, _, trained = output.partition("Epoch 1/2")
    assert described.count("\n") == 2, described  # before the first progress bar
    for part in (
        f" parameters, {keras.backend.backend()} on ",
        "; 38 images 16x16x3, 2 for validation\n",
        "0 of 2 epochs of 4 steps are done; ",
        "final.keras go to run\n",
    ):
        assert part in described, described
    assert "run/final.keras" in trained
    written = (folder / "run").rglob("*")
    assert {str(p.relative_to(folder / "run")) for p in written if is_shown(p)} == FILES
    saved = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert saved["training"]["epochs"] == 2 and saved["network"]["widths"] == [8]
    # The rest is that of configs/embedded.yaml.
    assert saved["diffusion"]["prediction"] == "velocity" and saved["data"]["use_labels"]
    log = read_log(folder / "run" / "log.csv")
    assert {"loss", "val_loss", "sample_mean_red", "data_mean_red"} <= set(log.dtype.names)
    assert len(log) == 2 and np.isfinite(log["val_loss"]).all()
    np.testing.assert_array_equal(read_log(folder / "other.csv")["loss"], log["loss"])
    model = keras.saving.load_model(folder / "run" / "final.keras")
    assert model.num_classes == 24 and "red 5-petalled" in model.class_names


def test_a_finished_run_rests_and_may_be_made_longer(run, capsys):
    before = (run / "final.keras").stat().st_mtime_ns
    longer = {"data.num_images": 40, "training.epochs": 3}
    run_command(flowers, *options({**longer, "training.epochs": 2}))
    assert "run is finished: 2 epochs are done" in capsys.readouterr().out
    assert (run / "final.keras").stat().st_mtime_ns == before

    message = error_of(flowers, *options({**longer, "training.learning_rate": 1e-3}))
    assert "  training.learning_rate: 0.005 -> 0.001\n" in message
    assert "--from" in message
    run_command(flowers, *options(longer))
    output = capsys.readouterr().out
    assert "2 of 3 epochs of 4 steps are done" in output and "Epoch 1/" not in output
    assert len(read_log("run/log.csv")) == 3 and (run / "samples" / "epoch_0003.png").exists()
    assert (run / "final.keras").stat().st_mtime_ns > before


@pytest.mark.parametrize("kind", ["preset", "file", "diffusers"])
def test_a_run_starts_from_another_model_and_resumes(run, kind, tmp_path):
    source = keras.saving.load_model("run/final.keras")
    path = tmp_path / "run" / "final.keras"
    if kind == "preset":
        path = source.save_to_preset("preset", dtype="float32")
    elif kind == "diffusers":
        path = to_diffusers(source, "theirs")
    start = {"from": path, "run": "tuned", "data.num_images": 20, "data.name": "drawn_flowers"}
    start |= {"training.epochs": 1, "training.batch_size": 8, "training.warmup_steps": 0}
    start |= {"sampling.steps": 2, "sampling.num_images": 4}
    start |= {"training.learning_rate_decay": "constant"}
    tuned = Run(parse_config(to_options(start), "embedded")).model
    for network in (tuned.network, tuned.ema_network):
        for found, expected in zip(network.weights, source.ema_network.weights):
            if kind != "diffusers" or "label" not in found.path:  # it has no names of classes
                np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))
    assert not all(map(np.array_equal, source.network.get_weights(), tuned.network.get_weights()))
    assert int(to_numpy(tuned.updates)) == 0 and tuned.sample_shape == source.sample_shape
    assert tuned.diffusion.get_config() == source.diffusion.get_config()
    contradiction = {**start, "network.widths": [16], "run": "wrong"}
    message = error_line_of(train, *to_options(contradiction))
    assert re.match(r"--network.widths=\[16\] contradicts --from .* model has \[8\]", message)
    if kind != "preset":
        return
    run_command(train, *to_options(start))
    run_command(train, *to_options({**start, "training.epochs": 2}))  # goes on
    run_command(train, *to_options({**start, "training.epochs": 2, "run": "at_once"}))
    resumed, at_once = (
        keras.saving.load_model(f"{folder}/final.keras") for folder in ("tuned", "at_once")
    )
    assert_same_states(states(resumed), states(at_once))


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"data.channels": 1}, r"--data.channels=1 contradicts --from drawn_flowers_16"),
        ({"data.image_size": 18}, r"--data.image_size=\(18, 18\) must be divisible by 4"),
        ({"diffusion.schedule": "linear"}, r"--diffusion.schedule=linear contradicts"),
        ({"from": "nowhere.keras"}, r".*there is no file 'nowhere.keras'"),
        ({"from": "nowhere"}, r"there is no preset 'nowhere'"),
        ({"training.remat": True}, r"--training.remat=True is not possible with --from"),
    ],
)
def test_what_does_not_fit_the_source_ends_the_command_before_training(wrong, expected):
    start = {"from": "drawn_flowers_16", "data.name": "drawn_flowers", "data.num_images": 40}
    message = error_line_of(train, *to_options({**start, **wrong}))
    assert re.match(expected, message), message


@pytest.mark.once
def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "epoch_0001.keras").write_bytes(b"PK")
    save_config(parse_config(options()), "run/config.yaml")
    assert error_line_of(train, *options()).endswith("Delete it to begin anew.\n")


@pytest.mark.once
def test_a_run_passes_over_a_truncated_checkpoint_and_ends_clearly_on_a_full_disk(run):
    newest, final = run / "checkpoints" / "epoch_0002.keras", run / "final.keras"
    os.truncate(newest, newest.stat().st_size // 2)
    size = newest.stat().st_size
    final.unlink()
    (run / ".partial-final.keras").symlink_to("/dev/full")
    with pytest.warns(UserWarning) as warned:
        message = error_line_of(flowers, *options({"data.num_images": 40}))
    assert "No space left on device" in message and "final.keras" in message
    assert not final.exists()
    texts = " ".join(str(warning.message) for warning in warned)
    assert "epoch_0002.keras is damaged: going on from run/checkpoints/epoch_0001.keras" in texts
    assert (newest.parent / "older" / newest.name).stat().st_size == size < newest.stat().st_size
    assert len(read_log(run / "log.csv")) == 2


@pytest.mark.once
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(Run, "fit", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop:
        run_command(train, *options())
    assert stop.value.code == 130
    message = "interrupted: the same command goes on from the last checkpoint.\n"
    assert capsys.readouterr().err == message


@pytest.mark.once
def test_two_processes_do_not_share_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire()"
    command = [
        sys.executable,
        "-u",
        "-c",
        f"{hold}; print(); input()",
        str(tmp_path / "run" / LOCK),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()
        message = error_line_of(train, *options())
        other.kill()
    assert message.startswith("another process trains in 'run'.")
    assert Run(parse_config(options())).epochs_done == 0  # the lock has ended with the process


@pytest.mark.once
def test_the_settings_of_the_optimisation_reach_the_model():
    """Without a step: the objects of a run know what they were told."""
    training = {
        "gradient_accumulation": 3,
        "learning_rate_decay": "cosine",
        "learning_rate": 0.1,
        "epochs": 5,
        "warmup_steps": 4,
        "global_clipnorm": 1.5,
        "loss": "huber",
        "ema_decay": 0.5,
        "label_dropout": 0.25,
        "min_snr_gamma": 5,
        "remat": True,
        "dtype_policy": "mixed_bfloat16",
        "jit_compile": False,
        "steps_per_execution": 2,
    }
    data = {"use_labels": True, "flip": False, "channels": 1, "validation_split": "test"}
    sampling = {"guidance_scale": 2, "every": 3, "sampler": "heun"}
    sections = {"training": training, "data": data, "sampling": sampling}
    settings = {f"{name}.{key}": v for name, keys in sections.items() for key, v in keys.items()}
    run = Run(parse_config(options(settings)))
    model, optimizer, (samples,) = run.model, run.model.optimizer, run.loggers
    assert (optimizer.gradient_accumulation_steps, optimizer.global_clipnorm) == (3, 1.5)
    schedule = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    rates = [float(to_numpy(schedule(step))) for step in (0, 2, 4, 7, 10)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.05, 0], atol=1e-6)
    assert (model.loss, model.steps_per_execution, model.jit_compile) == ("huber", 2, False)
    assert (model.ema_decay, model.label_dropout, model.min_snr_gamma) == (0.5, 0.25, 5)
    assert model.network.remat and model.network.dtype_policy.name == "mixed_bfloat16"
    assert model.sample_shape == (16, 16, 1) and model.num_classes == 24
    assert not run.dataset.flip and len(run.validation.images) == 20
    assert not np.array_equal(run.validation.images, run.dataset.images)
    assert samples.sampling["guidance_scale"] == 2 and samples.every == 3
    assert samples.sampling["sampler"].steps == 2


@pytest.mark.needs("tensorboardX")
def test_tensorboard_is_an_option():
    samples, board = Run(parse_config(options({"logging.tensorboard": True}))).loggers
    assert board.samples is samples and str(board.directory) == "run/tensorboard"


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"data.name": "drawn_flower"}, "--data.name='drawn_flower'.* did you mean"),
        ({"data.validation_split": "tset"}, "--data.validation_split='tset'.* did you mean"),
        ({"data.num_images": 10**12}, "out of memory: .*Try a smaller --data.num_images"),
        ({"data.validation_fraction": 1}, "--data.validation_fraction=1.0 must be a number in"),
        (
            {"data.validation_split": "test", "data.validation_fraction": 0.5},
            "--data.validation_fraction=0.5 and validation_split=test exclude each other",
        ),
        ({"diffusion.timesteps": 0}, "--diffusion.timesteps=0 must be from 1 to"),
        ({"diffusion.zero_terminal_snr": True}, "--diffusion.prediction='noise' is not possible"),
        ({"network.has_attention": [True, True]}, ".*must have one entry for each level"),
        ({"run": "file/run"}, ".*Choose another folder"),
        ({"sampling.num_images": 10**12}, "out of memory: .*Try a smaller --sampling.num_images"),
        (
            {"sampling.guidance_scale": -1, "data.use_labels": True},
            "--sampling.guidance_scale=-1.0 must be",
        ),
        ({"sampling.guidance_scale": 2}, "--sampling.guidance_scale=2.0 needs --data.use_labels"),
        ({"sampling.every": 0}, "--sampling.every=0 must be at least 1"),
        ({"sampling.steps": 51}, "--sampling.steps=51 is more than the 50 timesteps"),
        ({"training.batch_size": 21}, "--training.batch_size=21 is more than the 20 images"),
        ({"training.devices": 64}, "--training.devices=64"),
        ({"training.ema_decay": 1}, "--training.ema_decay=1.0 must be a number in"),
        ({"training.seed": 2**32}, "--training.seed=4294967296 must be from 0 to 4294967295"),
        ({"training.warmup_steps": 4}, "--training.warmup_steps=4 must be less than the 4 steps"),
    ],
)
def test_a_wrong_value_ends_the_command_before_training(tmp_path, wrong, expected):
    (tmp_path / "file").write_text("")
    message = error_line_of(train, *options(wrong))
    assert re.match(expected, message), message
    assert not (tmp_path / "run" / "log.csv").exists()


@pytest.mark.once
def test_wrong_callbacks_are_found_before_the_images_are_loaded():
    wrong = {"logging.callbacks": [{"class_path": "a.B"}], "data.name": "nowhere"}
    assert error_of(train, *options(wrong)).startswith("error: logging.callbacks: ")


@pytest.mark.once
def test_validation_images_of_other_classes_are_refused(tmp_path):
    for name in ("a/daisy", "a/rose", "b/rose"):
        (tmp_path / "garden" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16)).save(tmp_path / "garden" / name / f"{i}.png")
    data = {"data.name": "garden", "data.split": "a", "data.validation_split": "b"}
    message = error_line_of(train, *options({**data, "data.use_labels": True}))
    assert message.startswith("--data.validation_split='b' has other classes")
