"""The configuration, from the command line and YAML to dataclasses and back."""

from dataclasses import fields
from pathlib import Path
from typing import get_args

import keras
import pytest
import yaml

from keras_ddpm.command_line import (
    build_callbacks,
    check_unchanged,
    flatten,
    parse_config,
    save_config,
)
from keras_ddpm.config import (
    DiffusionConfig,
    LoggingConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from keras_ddpm.diffusion import PREDICTIONS, VARIANCES
from keras_ddpm.schedules import SCHEDULES

pytestmark = pytest.mark.once

CONFIGS = sorted((Path(__file__).parent.parent / "examples" / "configs").glob("*.yaml"))


def error_of(args, capsys):
    """What a wrong command line prints before it exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        parse_config(args)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_file_and_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("training: {epochs: 7, learning_rate: 1e-3}\nnetwork: {widths: [8, 16, 32]}\n")
    config = parse_config(["--config", str(path), "--training.epochs", "3", "--run", "runs/a"])
    assert config.run == "runs/a"
    assert (config.training.epochs, config.training.learning_rate) == (3, 1e-3)
    assert config.network.widths == (8, 16, 32)
    assert config.diffusion == DiffusionConfig()  # the rest are defaults


def test_default_config_yields_to_config(tmp_path):
    for name, epochs in (("default", 5), ("other", 6)):
        (tmp_path / name).write_text(f"training: {{epochs: {epochs}}}")
    default = tmp_path / "default"
    assert parse_config([], default).training.epochs == 5
    assert parse_config(["--config", str(tmp_path / "other")], default).training.epochs == 6
    assert parse_config([f"--config={tmp_path / 'other'}"], default).training.epochs == 6


@pytest.mark.parametrize("spelling", [["--init-from", "a"], ["--init_from=a"]])
def test_init_from_has_a_short_name(spelling):
    assert parse_config(spelling).training.init_from == "a"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_of_the_examples_are_valid(path):
    assert isinstance(parse_config(["--config", str(path)]), RunConfig)


def test_saved_config_reads_back(tmp_path):
    args = ["--network.widths", "[8, 16]", "--network.has_attention", "[false, true]"]
    config = parse_config([*args, "--training.clipnorm", "1.5", "--training.jit_compile", "true"])
    save_config(config, tmp_path / "config.yaml")
    assert parse_config(["--config", str(tmp_path / "config.yaml")]) == config


def test_callbacks_read_back_as_they_were_written(tmp_path):
    """Building them changes nothing in the configuration."""
    text = "[{class_path: keras.callbacks.CSVLogger, init_args: {filename: a.csv, append: true}}]"
    config = parse_config(["--logging.callbacks", text])
    (logger,) = build_callbacks(config.logging.callbacks)
    assert isinstance(logger, keras.callbacks.CSVLogger)
    assert (logger.filename, logger.append) == ("a.csv", True)
    save_config(config, tmp_path / "config.yaml")
    saved = parse_config(["--config", str(tmp_path / "config.yaml")])
    assert saved == config and saved.logging.callbacks == yaml.safe_load(text)


@pytest.mark.parametrize(
    "spec, expected",
    [
        ({"class_path": "keras.callbacks.CSVLoger"}, "no attribute 'CSVLoger'"),
        ({"class_path": "keras.callbacks.CSVLogger"}, "missing a required argument: 'filename'"),
        (
            {"class_path": "keras.callbacks.CSVLogger", "init_args": {"filenam": "a"}},
            "'filenam' is not accepted",
        ),
        ({"class_path": "keras.layers.Dense", "init_args": {"units": 1}}, "subclass of Callback"),
        ({"clas_path": "keras.callbacks.CSVLogger"}, "'clas_path' is not accepted"),
    ],
)
def test_callbacks_that_cannot_be_built(spec, expected):
    with pytest.raises(ValueError, match=f"(?s)logging.callbacks: .*{expected}"):
        build_callbacks([spec])


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key in flatten():
        assert f"--{key} " in text
    # A key without an explanation goes from its name straight to its type.
    bare = [key for key in flatten() if f"--{key} {key.split('.')[-1].upper()} (type" in text]
    assert not bare


@pytest.mark.parametrize(
    "text, wrong, right",
    [
        ("training: {epoch: 3}", "training.epoch", "training.epochs"),
        ("trainning: {epochs: 3}", "trainning.epochs", "training.epochs"),
        ("runn: a", "runn", "run"),
    ],
)
def test_unknown_key_in_a_file(tmp_path, capsys, text, wrong, right):
    (tmp_path / "a.yaml").write_text(text)
    message = error_of(["--config", str(tmp_path / "a.yaml")], capsys)
    assert f"{wrong!r} is not a key of the configuration, did you mean {right!r}?" in message


@pytest.mark.parametrize(
    "option, right",
    [
        ("--training.epoch", "training.epochs"),
        ("--trainin.epochs", "training.epochs"),
        ("--traning.learning_rte", "training.learning_rate"),
    ],
)
def test_unknown_key_on_the_command_line(capsys, option, right):
    assert f"did you mean {right!r}?" in error_of([option, "3"], capsys)
    assert f"did you mean {right!r}?" in error_of([f"{option}=3"], capsys)


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("training.epochs", "0", "at least 1"),
        ("training.epochs", "many", "training.epochs"),
        ("training.learning_rate", "0", "training.learning_rate must be more than 0"),
        ("training.learning_rate", "-1e-3", "training.learning_rate must be more than 0"),
        ("training.learning_rate", ".nan", "training.learning_rate must be more than 0"),
        ("training.learning_rate_decay", "linear", "cosine"),
        ("training.batch_size", "0", "at least 1"),
        ("training.warmup_steps", "-1", "at least 0"),
        ("training.gradient_accumulation", "0", "at least 1"),
        ("training.clipnorm", "0", "more than 0"),
        ("training.ema_decay", "1", "training.ema_decay must be a number in [0, 1)"),
        ("training.label_dropout", "-0.1", "training.label_dropout"),
        ("training.min_snr_gamma", "0", "training.min_snr_gamma must be more than 0"),
        ("training.dtype_policy", "float8", "mixed_bfloat16"),
        ("training.jit_compile", "perhaps", "training.jit_compile"),
        ("training.seed", "-1", "at least 0"),
        ("training.devices", "0", "training.devices must be at least 1"),
        ("training.devices", "most", "training.devices"),
        ("data.image_size", "0", "at least 1"),
        ("data.channels", "2", "data.channels"),
        ("data.num_images", "0", "at least 1"),
        ("data.validation_fraction", "1", "less than 1"),
        ("diffusion.timesteps", "0", "at least 1"),
        ("diffusion.schedule", "cosin", "cosine"),
        ("diffusion.beta_end", "1e-5", "beta_start"),
        ("diffusion.zero_terminal_snr", "true", "does not go with diffusion.prediction=noise"),
        ("network.has_attention", "[true]", "one entry a level"),
        ("network.norm_epsilon", "0", "more than 0"),
        ("network.dropout", "1", "network.dropout"),
        ("sampling.steps", "1001", "more than diffusion.timesteps=1000"),
        ("sampling.steps", "0", "at least 1"),
        ("sampling.every", "0", "at least 1"),
        ("sampling.eta", "-1", "at least 0"),
        ("sampling.guidance_scale", "-1", "sampling.guidance_scale must be at least 0"),
        ("sampling.guidance_scale", "2", "needs data.use_labels"),
    ],
)
def test_wrong_value(capsys, option, value, expected):
    assert expected in error_of([f"--{option}={value}"], capsys)


def test_two_kinds_of_validation(capsys):
    args = ["--data.validation_split=validation", "--data.validation_fraction=0.1"]
    assert "not both" in error_of(args, capsys)


def test_wrong_files(tmp_path, capsys):
    assert "nowhere.yaml" in error_of(["--config", str(tmp_path / "nowhere.yaml")], capsys)
    (tmp_path / "a.yaml").write_text("data: [")
    error_of(["--config", str(tmp_path / "a.yaml")], capsys)


def test_choices_are_those_of_the_package():
    choices = {f.name: get_args(f.type) for f in fields(DiffusionConfig)}
    assert choices["schedule"] == tuple(SCHEDULES)
    assert choices["prediction"] == PREDICTIONS
    assert choices["variance"] == VARIANCES


def changed(tmp_path, old, new):
    save_config(old, tmp_path / "config.yaml")
    check_unchanged(new, tmp_path / "config.yaml")


def test_changes_that_a_resumed_run_may_have(tmp_path):
    changed(
        tmp_path,
        RunConfig(run="a", training=TrainingConfig(epochs=3)),
        RunConfig(
            run="b",
            training=TrainingConfig(epochs=4, checkpoint_every=2, devices="all"),
            sampling=SamplingConfig(every=3, steps=5),
            logging=LoggingConfig(tensorboard=True),
        ),
    )


@pytest.mark.parametrize(
    "old, new, listed",
    [
        ({}, {"learning_rate": 1e-3}, "training.learning_rate: 0.0002 -> 0.001"),
        ({}, {"epochs": 99}, "training.epochs: 100 -> 99"),
        (
            {"learning_rate_decay": "cosine"},
            {"learning_rate_decay": "cosine", "epochs": 101},
            "training.epochs: 100 -> 101",
        ),
    ],
)
def test_changes_that_it_may_not_have(tmp_path, old, new, listed):
    old, new = (RunConfig(training=TrainingConfig(**training)) for training in (old, new))
    with pytest.raises(ValueError, match="another folder with --run") as error:
        changed(tmp_path, old, new)
    assert listed in str(error.value)


def test_checkpoints_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.yaml"):
        check_unchanged(RunConfig(), tmp_path / "config.yaml")
