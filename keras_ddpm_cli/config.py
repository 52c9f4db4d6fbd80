"""The configuration of a training run: YAML files and the command line."""

import argparse
import difflib
import inspect
import json
import pydoc
import re
import textwrap
from copy import deepcopy
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from keras_ddpm_cli.options import SECTIONS, describe_option

CONFIGS = Path(__file__).parent / "configs"
DESCRIPTION = """Trains a diffusion model on images, and goes on with a run that was stopped.

  keras-ddpm train                                             the embedded set, on a CPU
  keras-ddpm train --config folder --data.name path/to/images  your own images
  keras-ddpm train --from flowers_32 --data.name my_flowers    fine-tuning of a preset
  keras-ddpm train --run runs/short --training.epochs 3        other values

--config takes a YAML file, or one of these names:
{names}

A run is a folder: config.yaml, log.csv, loss.png, samples/, checkpoints/, samples.png and
final.keras. Started again on the same folder, a run goes on from its latest checkpoint, to the
same weights as without the interruption. The defaults below are those of this command line, with
its --config."""
# A resumed run may change these: they have no influence on the weights.
FREE_TO_CHANGE = ("run", "training.checkpoint_every", "training.devices", "sampling.", "logging.")
# With --from, what is not given of these is None until the source is read.
FROM_SOURCE = ("network.", "diffusion.", "data.image_size", "data.channels")
UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: (?:--)?(?P<argument>[^\s=]+)"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"
    r"|(?:Option|Key) '(?P<key>[^']+)' is not (?:accepted|expected)"
)
WRONG_VALUE = re.compile(r'Parser key "((?!config)(\w+)(?:\.(\w+))?)":')
GIVEN = re.compile(
    r"(?:Given|Got) value: (?P<a>.*)|base 10: '(?P<b>.*)'|load config '(?P<c>.*)'"
    r"|: (?P<d>\S+) does not conform"
)


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the description as it is."""


class ConfigParser(ArgumentParser):
    """A parser whose errors are one line, which names the option and what it may be."""

    def error(self, message, ex=None):
        text = " ".join(str(message).split())
        if found := UNKNOWN_KEY.search(text):
            key = found["argument"] or found["key"] or f"{found['group']}.{found['option']}"
            close = difflib.get_close_matches(key, dict(self.get_defaults().items()), n=1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            text = f"{key!r} is not a key of the configuration{hint}"
        elif found := WRONG_VALUE.match(text):
            option, section, key = found.groups()
            given = GIVEN.search(str(message))
            value = f"={given[given.lastgroup]}" if given else ""
            text = f"--{option}{value} must be {describe_option(section, key)}"
        self.exit(2, f"error: {text}\n")


def parse_config(args, default_config=None):
    """Reads a run's configuration; prints an error and exits with code 2 if it is wrong.

    `--config` reads a file, or a configuration of `CONFIGS` by its name, instead of the default
    one, and `--section.key value` overrides it. Returns a namespace of sections, which are
    namespaces of values.

    >>> parse_config(["--training.epochs", "3"], "embedded").training.epochs
    3
    """
    parser = make_train_parser()
    args = [re.sub(r"^--config=", "--config\0", arg) for arg in args]
    args = [part for arg in args for part in arg.split("\0", 1)]
    if default_config and "--config" not in args:
        has_source = any(re.match("--from(=|$)", arg) for arg in args)
        args = ["--config", "fine_tuning" if has_source else str(default_config), *args]
    for i, before in enumerate(args[:-1], start=1):
        if before == "--config":
            args[i] = str(find_config(args[i]))
            try:
                check_yaml(args[i])
            except (OSError, ValueError) as error:
                parser.error(error)
    defaults = dict(parser.get_defaults().items())
    wants_help = {"-h", "--help"} & set(args)
    args = [arg for arg in args if arg not in wants_help]
    parsed = parser.parse_args(args)
    if wants_help:
        in_force = {key: value for key, value in parsed.items() if key != "config"}
        parser.set_defaults(in_force)
        parser.print_help()
        parser.exit(0)
    for key, value in parsed.items():
        is_empty = isinstance(value, str) and not value.strip()
        if is_empty or (value is None and defaults[key] is not None):
            parser.error(f"--{key}={json.dumps(value)} must have a value")
    config = parsed.as_dict()
    del config["config"]  # what the files said is in the sections
    config = json.loads(json.dumps(config))  # plain numbers and lists
    if parsed["from"] is not None:
        given = dict(parser.parse_args(args, defaults=False).items())
        for section, key in (key.split(".") for key in defaults if key.startswith(FROM_SOURCE)):
            if f"{section}.{key}" not in given:
                config[section][key] = None
    sections = {key: Namespace(**v) if isinstance(v, dict) else v for key, v in config.items()}
    return Namespace(**sections)


def make_train_parser():
    names = textwrap.fill(", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml"))), 90)
    parser = ConfigParser(
        "keras-ddpm train",
        usage="keras-ddpm train [--config CONFIG] [--from MODEL] [--run RUN] [--SECTION.KEY VALUE]",
        description=DESCRIPTION.format(names=names),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of what follows.")
    help = "a preset, also hf://user/name, a .keras file or a folder of diffusers to start from; "
    help += "network, diffusion, channels and image size are then those of its model"
    parser.add_argument("--from", type=str | None, default=None, help=help)
    help = "the folder that everything is written to; the same folder again resumes the run"
    parser.add_argument("--run", type=str, default="runs/flowers", help=help)
    for section, options in SECTIONS.items():
        parser.add_class_arguments(options, section, instantiate=False)
    return parser


def find_config(name):
    """The path of a configuration: a file, or one of `CONFIGS` by its name."""
    own = CONFIGS / f"{name}.yaml"
    return own if own.is_file() and not Path(name).exists() else Path(name)


def check_yaml(path):
    """Refuses what is no configuration, before it is read as one."""
    if not Path(path).is_file():
        names = ", ".join(sorted(own.stem for own in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"--config={path}: there is no such file; names are {names}")
    try:
        text = Path(path).read_text("utf-8")
        # An alias repeats a part of the file. A few hundred bytes of them can fill the memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError(f"--config={path}: aliases (*name) are not read; repeat the values")
        sections = yaml.safe_load(text)
    except (RecursionError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config={path} is no YAML: {error}") from error
    if not isinstance(sections, dict) or not all(isinstance(key, str) for key in sections):
        raise ValueError(f"--config={path} must have sections such as `training:`")
    for key in SECTIONS:
        if not isinstance(sections.get(key, {}), dict):
            raise ValueError(
                f"--config={path}: {key}={sections[key]!r} must be keys and values; leave it out "
                "where there are none"
            )


def build_callbacks(specs):
    """The callbacks of `logging.callbacks`; a ValueError names what is wrong with them.

    >>> build_callbacks([{"class_path": "keras.callbacks.TerminateOnNaN"}])[0].__class__.__name__
    'TerminateOnNaN'
    """
    from keras.callbacks import Callback

    def together(callbacks: list[Callback]):
        """The parser builds what this function takes."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(together, fail_untyped=False)
    try:
        parsed = parser.parse_object({"callbacks": deepcopy(specs)})  # it changes its argument
        for spec, found in zip(specs, parsed.callbacks):  # what is missing has become None
            inspect.signature(pydoc.locate(found.class_path)).bind(**spec.get("init_args", {}))
    except (ArgumentError, TypeError) as error:
        raise ValueError(f"logging.callbacks: {' '.join(str(error).split())}") from error
    return parser.instantiate(parsed).callbacks


def save_config(config, path):
    """Writes a configuration as YAML that `--config` reads."""
    from keras_ddpm.files import atomic_write

    with atomic_write(path) as partial:
        partial.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))


def check_unchanged(config, saved_path):
    """Refuses to go on with a run whose configuration, in `saved_path`, was another.

    Sampling and logging may change, and `training.epochs` may grow if the learning rate is
    constant.
    """
    if not Path(saved_path).is_file():
        raise FileNotFoundError(
            f"the run has checkpoints but no {str(saved_path)!r}, so it is not known what they "
            "are of. Choose another folder with --run."
        )
    old, new = dict(parse_config(["--config", str(saved_path)]).items()), dict(config.items())
    changed = [k for k in new if new[k] != old[k] and not k.startswith(FREE_TO_CHANGE)]
    may_grow = config.training.learning_rate_decay == "constant"
    if may_grow and new["training.epochs"] > old["training.epochs"]:
        changed.remove("training.epochs")
    if changed:
        lines = "\n".join(f"  {key}: {old[key]!r} -> {new[key]!r}" for key in changed)
        raise ValueError(
            f"this run began with another configuration, in {str(saved_path)!r}:\n{lines}\n"
            "Set these back to go on, or choose another folder with --run; it may start from these "
            "weights with --from. training.epochs may only grow, and only with a "
            "constant learning rate."
        )
