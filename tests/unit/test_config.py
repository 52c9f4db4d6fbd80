"""The configuration of a training run: the command line and YAML files, and back."""

import inspect
import json
import os

import keras
import pytest
import yaml
from tools import ROOT, error_line_of

from keras_ddpm import (
    DiffusionModel,
    GaussianDiffusion,
    ImageDataset,
    SampleImages,
    UNet,
    load_images,
)
from keras_ddpm.callbacks import SamplingCallback
from keras_ddpm_cli.config import build_callbacks, check_unchanged, parse_config, save_config

pytestmark = pytest.mark.once
CSV, COSINE = "keras.callbacks.CSVLogger", "--training.learning_rate_decay=cosine"
CONFIGS = sorted((ROOT / "keras_ddpm_cli" / "configs").glob("*.yaml"))


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def parse_error(*args):
    return error_line_of(lambda: parse_config(list(args)))


@pytest.mark.parametrize(
    "section, functions",
    [
        ("data", [load_images, ImageDataset]),
        ("diffusion", [GaussianDiffusion]),
        ("network", [UNet]),
        ("training", [UNet, DiffusionModel, ImageDataset]),
        ("sampling", [SampleImages, SamplingCallback]),
    ],
)
def test_the_defaults_are_those_of_the_library(section, functions):
    """Each argument of these functions that has a default. A command has a fixed seed."""
    given, found = parse_config([])[section].as_dict(), set()
    for function in functions:
        for name, value in defaults(function).items():
            if name in given and name != "seed":
                found.add(name)
                assert given[name] == (list(value) if isinstance(value, tuple) else value), name
    if section in ("diffusion", "network"):
        assert found == set(given), "each option is an argument"
        not_options = {"channels", "num_classes", "condition_channels", "remat", "dtype", "name"}
        assert set(defaults(functions[0])) - not_options == set(given)


def test_files_and_options_override_the_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("training: {epochs: 7, learning_rate: 1e-3}\nnetwork: {widths: [8, 16, 32]}\n")
    config = parse_config(["--config", str(path), "--training.epochs", "3", "--run", "runs/a"])
    assert config.run == "runs/a"
    assert (config.training.epochs, config.training.learning_rate) == (3, 1e-3)
    assert config.network.widths == [8, 16, 32]


def test_a_configuration_of_the_package_has_a_name():
    for args in (["--config", "mnist"], ["--config=mnist"]):
        config = parse_config([*args, "--training.epochs", "1"], "embedded")
        assert (config.run, config.training.epochs, config.data.channels) == ("runs/mnist", 1, 1)
    assert "names are colouring, drawn_flowers_16, embedded" in parse_error("--config", "digits")


def test_help_shows_the_values_in_force(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--config=folder", "--training.epochs", "3", "--help"], "embedded")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for value in ("runs/folder", "path/to/your/images", "[64, 128, 256, 256]"):
        assert f"default: {value})" in text
    assert "passes over the training images. (type: PositiveInt, default: 3)" in text


def test_the_default_file_yields_to_another_and_to_from(tmp_path):
    default, other = tmp_path / "default.yaml", tmp_path / "other.yaml"
    default.write_text("training: {epochs: 5, seed: 5}")
    other.write_text("training: {epochs: 6}")
    assert parse_config([], default).training.epochs == 5
    for args in (["--config", str(other)], [f"--config={other}"]):
        training = parse_config(args, default).training
        assert (training.epochs, training.seed) == (6, 0)
    for args in (["--from", "a"], ["--from=a"]):
        config = parse_config([*args, "--network.num_heads", "4"], default)
        assert config["from"] == "a" and config.run == "runs/fine_tuned"
        assert (config.network.num_heads, config.network.widths) == (4, None)
        assert config.data.image_size is None and config.training.seed == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_example_files_are_valid_and_survive_a_round_trip(path, tmp_path):
    config = parse_config(["--config", str(path)])
    for section, values in yaml.safe_load(path.read_text()).items():
        for key, value in values.items() if isinstance(values, dict) else ():
            assert config[section][key] == value, f"{section}.{key}"
    save_config(config, tmp_path / "config.yaml")
    assert parse_config(["--config", str(tmp_path / "config.yaml")]) == config


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    keys = [key for key in dict(parse_config([]).items()) if key != "run"]
    assert len(keys) > 40
    for key in keys:
        assert f"--{key} " in text, key
        # A key without an explanation goes from its name straight to its type.
        assert f"--{key} {key.split('.')[-1].upper()} (type" not in text, key


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    """Aliases of aliases, too: these few would be read as 10**9 strings."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    for content, expected in (
        (bytes(range(256)), "is no YAML"),
        (b"training: [", "is no YAML"),
        (b"[" * 999, "is no YAML"),
        (b"", "must have sections"),
        (b"- a", "must have sections"),
        (b"1: 2", "must have sections"),
        (b"training: null", "training=None must be keys and values"),
        (b"training: 3", "training=3 must be keys and values"),
        ("\n".join(["a0: &a0 [x]", *lines]).encode(), "aliases (*name) are not read"),
    ):
        (tmp_path / "a.yaml").write_bytes(content)
        error = parse_error("--config", str(tmp_path / "a.yaml"))
        assert error.startswith(f"--config={tmp_path / 'a.yaml'}") and expected in error
    (tmp_path / "a.yaml").write_text("training: {epochs: null}")
    error = parse_error("--config", str(tmp_path / "a.yaml"))
    assert error == "--training.epochs=null must have a value\n"
    os.mkfifo(tmp_path / "fifo")
    for name in ("nowhere.yaml", "fifo", ""):
        assert "there is no such file" in parse_error(f"--config={tmp_path / name}")


@pytest.mark.parametrize(
    "given, wrong, right",
    [
        ("training: {epoch: 3}", "training.epoch", "training.epochs"),
        ("trainning: {epochs: 3}", "trainning.epochs", "training.epochs"),
        ("runn: a", "runn", "run"),
        ("--trainin.epochs=3", "trainin.epochs", "training.epochs"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(tmp_path, given, wrong, right):
    (tmp_path / "a.yaml").write_text(given)
    args = [given] if given.startswith("--") else ["--config", str(tmp_path / "a.yaml")]
    expected = f"{wrong!r} is not a key of the configuration, did you mean {right!r}?"
    assert expected in parse_error(*args)


def test_a_value_of_a_wrong_type_is_refused():
    for option, value, expected in (
        ("training.epochs", "0", "be an int of at least 1"),
        ("training.learning_rate", "nan", "be a number above 0"),
        ("training.learning_rate_decay", "linear", "be 'constant' or 'cosine'"),
        ("training.warmup_steps", "-1", "be an int of at least 0"),
        ("training.global_clipnorm", "-1", "be a number above 0 or null"),
        ("training.jit_compile", "perhaps", "be true or false or 'auto'"),
        ("training.devices", "most", "be an int of at least 1 or 'all'"),
        ("from", '""', "have a value"),
        ("training", "null", "be keys and values; or give one as --training.KEY"),
        ("diffusion.schedule", "cosin", "be 'linear' or 'cosine' or 'flow'"),
        ("network.widths", "8", "be a list of ints"),
        ("sampling.steps", "1.5", "be an int or null"),
        ("run", '""', "have a value"),
    ):
        given = "" if value == '""' else value
        assert parse_error(f"--{option}={given}") == f"--{option}={value} must {expected}\n"


def test_callbacks_are_built_and_written_as_they_were_given(tmp_path):
    specs = [{"class_path": CSV, "init_args": {"filename": "a.csv", "append": True}}]
    config = parse_config(["--logging.callbacks", json.dumps(specs)])
    (logger,) = build_callbacks(config.logging.callbacks)
    assert isinstance(logger, keras.callbacks.CSVLogger)
    assert (logger.filename, logger.append) == ("a.csv", True)
    save_config(config, tmp_path / "config.yaml")
    saved = parse_config(["--config", str(tmp_path / "config.yaml")])
    assert saved == config and saved.logging.callbacks == specs


@pytest.mark.parametrize(
    "spec, expected",
    [
        ({"class_path": "keras.callbacks.CSVLoger"}, "no attribute 'CSVLoger'"),
        ({"class_path": CSV}, "missing a required argument: 'filename'"),
        ({"class_path": CSV, "init_args": {"filenam": "a"}}, "'filenam' is not accepted"),
        ({"class_path": "keras.layers.Dense", "init_args": {"units": 1}}, "subclass of Callback"),
        ({"clas_path": CSV}, "'clas_path' is not accepted"),
    ],
)
def test_callbacks_that_cannot_be_built(spec, expected):
    with pytest.raises(ValueError, match=f"(?s)logging.callbacks: .*{expected}"):
        build_callbacks([spec])


def resume(tmp_path, before, after):
    """Checks `after`, options of a run that goes on, against those of its beginning."""
    save_config(parse_config(before), tmp_path / "config.yaml")
    check_unchanged(parse_config(after), tmp_path / "config.yaml")


def test_a_resumed_run_may_change_what_has_no_influence_on_the_weights(tmp_path):
    free = "--run=b --training.checkpoint_every=2 --training.devices=all --sampling.every=3"
    free += " --sampling.steps=5 --logging.tensorboard=true --training.epochs=4"
    resume(tmp_path, ["--run=a", "--training.epochs=3"], free.split())
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        check_unchanged(parse_config([]), tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "before, after, listed",
    [
        ([], ["--training.learning_rate=1e-3"], "training.learning_rate: 0.0002 -> 0.001"),
        ([], ["--training.epochs=99"], "training.epochs: 100 -> 99"),
        ([COSINE], [COSINE, "--training.epochs=101"], "training.epochs: 100 -> 101"),
    ],
)
def test_a_resumed_run_may_not_change_the_rest(tmp_path, before, after, listed):
    with pytest.raises(ValueError, match="another folder with --run") as error:
        resume(tmp_path, before, after)
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [listed]
