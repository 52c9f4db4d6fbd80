"""The Hugging Face Hub: names such as `hf://user/name`, and errors of one sentence."""

import re
from contextlib import contextmanager
from importlib import import_module


def is_on_hub(name):
    return isinstance(name, str) and name.startswith("hf://")


def split_name(argument, name):
    """`("user/name", revision or None)` of `hf://user/name` or `hf://user/name@revision`."""
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@(.+))?", name)
    if found is None:
        raise ValueError(f"{argument} {name!r} must be hf://user/name or hf://user/name@revision.")
    return found.groups()


def import_for(name, package):
    """The module of a package of the extra `hub`, which `name` needs."""
    try:
        return import_module(package)
    except ImportError as error:
        text = f'{name!r} needs {package}: pip install "keras-ddpm[hub]"'
        raise ImportError(text) from error


@contextmanager
def hub_errors(name, failed):
    """Makes one sentence of an error of the hub or of the network; `failed` says what failed."""
    errors = import_for(name, "huggingface_hub.errors")
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        text = f"the hub has no {name!r} that you may see: check the name, or run `hf auth login`."
        raise FileNotFoundError(text) from error
    except Exception as error:  # of the hub, of two libraries for HTTP, of the disk
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise RuntimeError(f"{name!r} {failed}: {text}") from error
