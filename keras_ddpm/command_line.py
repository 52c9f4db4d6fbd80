"""A `RunConfig` from the command line and YAML files, and back. Nothing here imports Keras."""

import inspect
import json
import pydoc
import re
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from keras_ddpm.config import RunConfig
from keras_ddpm.files import written_aside
from keras_ddpm.validation import nearest

# A resumed run may change these: they have no influence on the weights. (Other devices draw other
# noise with TensorFlow, and sum in another order.)
FREE_TO_CHANGE = ("run", "training.checkpoint_every", "training.devices")
FREE_SECTIONS = ("sampling.", "logging.")
UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: (?:--)?(?P<argument>[^\s=]+)"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"
    r"|(?:Option|Key) '(?P<key>[^']+)' is not (?:accepted|expected)"
)


class ConfigParser(ArgumentParser):
    """A parser that answers an unknown key with the nearest one it knows."""

    def error(self, message, ex=None):
        if found := UNKNOWN_KEY.search(str(message)):
            key = found["argument"] or found["key"] or f"{found['group']}.{found['option']}"
            message = f"{key!r} is not a key of the configuration{nearest(key, flatten())}"
        super().error(message, ex)


def parse_config(args, default_config=None, description=None):
    """Reads a run's configuration; prints an error and exits with code 2 if it is wrong.

    Args:
        args: the command line, a list of strings. `--config file.yaml` reads a file, which may
            hold any part of a `RunConfig`; `--section.key value` overrides it.
        default_config: optional path of the file to read if `args` name none.
        description: what `--help` says first.

    Returns:
        A `RunConfig`.

    Example:

    >>> parse_config(["--training.epochs", "3"]).training.epochs
    3
    """
    args = [re.sub(r"^--init[-_]from(?==|$)", "--training.init_from", arg) for arg in args]
    if default_config and not any(re.match(r"--config(=|$)", arg) for arg in args):
        args = ["--config", str(default_config), *args]
    parser = ConfigParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of what follows.")
    parser.add_class_arguments(RunConfig)
    parsed = parser.parse_args(args)
    parsed.pop("config")
    try:
        return RunConfig(**vars(parser.instantiate(parsed)))
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def build_callbacks(specs):
    """The callbacks of `LoggingConfig.callbacks`. This imports Keras, the only one here to do so.

    Args:
        specs: list of dicts, each with the `class_path` of a `keras.callbacks.Callback`, and the
            `init_args` of its constructor, a dict.

    Raises:
        ValueError: naming what is wrong: a class that is not there or no callback, or an argument
            that it does not take or misses.

    Example:

    >>> build_callbacks([{"class_path": "keras.callbacks.TerminateOnNaN"}])
    """
    from keras.callbacks import Callback

    def together(callbacks: list[Callback]):
        """Whose argument is what the parser has to build."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(together, fail_untyped=False)
    try:
        parsed = parser.parse_object({"callbacks": deepcopy(specs)})  # it changes what it is given
        for spec, found in zip(specs, parsed.callbacks):  # what is missing has become None
            inspect.signature(pydoc.locate(found.class_path)).bind(**spec.get("init_args", {}))
    except (ArgumentError, TypeError) as error:
        raise ValueError(f"logging.callbacks: {error}") from error
    return parser.instantiate(parsed).callbacks


def save_config(config, path):
    """Writes a `RunConfig` as YAML that `--config` reads.

    Args:
        config: a `RunConfig`.
        path: the file, whose folder must exist.
    """
    plain = json.loads(json.dumps(asdict(config)))  # YAML knows lists, no tuples
    with written_aside(path) as partial:
        partial.write_text(yaml.safe_dump(plain, sort_keys=False))


def flatten(config=None):
    """A `RunConfig` as one dict: `{"run": ..., "data.name": ..., "training.epochs": ...}`."""
    flat = {}
    for section, values in asdict(config or RunConfig()).items():
        if isinstance(values, dict):
            flat.update({f"{section}.{key}": value for key, value in values.items()})
        else:
            flat[section] = values
    return flat


def check_unchanged(config, saved_path):
    """Refuses to go on with a run whose configuration is no longer what it was.

    The samples drawn on the way and the logging may change, and `training.epochs` may grow, unless
    the learning rate falls towards the last epoch.

    Args:
        config: a `RunConfig`.
        saved_path: the file that `save_config` wrote when the run began.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the keys that changed.
    """
    if not Path(saved_path).is_file():
        raise FileNotFoundError(
            f"the run has checkpoints but no {str(saved_path)!r}, so it is not known what they "
            "are of. Choose another folder with --run."
        )
    old, new = flatten(parse_config(["--config", str(saved_path)])), flatten(config)
    changed = [key for key in new if new[key] != old[key]]
    changed = [k for k in changed if k not in FREE_TO_CHANGE and not k.startswith(FREE_SECTIONS)]
    may_grow = config.training.learning_rate_decay == "constant"
    if may_grow and new["training.epochs"] > old["training.epochs"]:
        changed.remove("training.epochs")
    if changed:
        lines = "\n".join(f"  {key}: {old[key]!r} -> {new[key]!r}" for key in changed)
        raise ValueError(
            f"this run began with another configuration, in {str(saved_path)!r}:\n{lines}\n"
            "Set these back to go on; or choose another folder with --run, which begins anew, or "
            "from a finished run's weights with --training.init_from model.keras. "
            "training.epochs may only grow, and only with a constant learning rate."
        )
