"""Type hints: whatever is public says what it takes and returns."""

import inspect
from importlib.resources import files

import pytest

import keras_ddpm
from keras_ddpm import callbacks, data, diffusers, metrics, samplers

pytestmark = pytest.mark.once
NAMES = {
    keras_ddpm: keras_ddpm.__all__,
    samplers: ("Sampler", "SamplerWithEta", "choose_timesteps", "get_sampler", "signal_levels"),
    diffusers: ("from_diffusers", "to_diffusers"),
    **{module: dir(module) for module in (callbacks, data, metrics)},
}
# The parts of the model call each other too; these are for its users.
OF_THE_MODEL = (
    "__init__ compile fit evaluate generate watch save save_to_preset from_preset "
    "with_dtype_policy export export_sampler"
).split()


def is_ours(one):
    return getattr(one, "__module__", "").startswith("keras_ddpm")


PUBLIC = {
    one.__name__: one
    for module, names in NAMES.items()
    for one in (getattr(module, name) for name in names)
    if is_ours(one) and (inspect.isfunction(one) or inspect.isclass(one))
}


def functions_of(one):
    """A function itself; of a class what it adds to those that it is derived from."""
    if inspect.isfunction(one):
        return [one]
    names = {name for base in filter(is_ours, one.__mro__) for name in vars(base)}
    names = {name for name in names if not name.startswith("_")} | {"__init__", "__call__"}
    found = []
    for name in OF_THE_MODEL if one is keras_ddpm.DiffusionModel else names:
        owners = [base for base in one.__mro__ if name in vars(base)]
        is_own = name.startswith("__") or one is keras_ddpm.DiffusionModel
        if owners and is_ours(owner := owners[0 if is_own else -1]):
            member = vars(owner)[name]
            found.append(getattr(member, "fget", getattr(member, "__func__", member)))
    return filter(inspect.isfunction, found)


def is_annotated(function):
    parameters = inspect.signature(function).parameters
    kinds = [p.annotation for name, p in parameters.items() if name not in ("self", "cls")]
    if function.__name__ != "__init__":
        kinds.append(inspect.signature(function).return_annotation)
    return inspect.Signature.empty not in kinds


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_annotated(name):
    assert not [f.__qualname__ for f in functions_of(PUBLIC[name]) if not is_annotated(f)]


def test_type_checkers_are_told():
    assert files("keras_ddpm").joinpath("py.typed").is_file()
