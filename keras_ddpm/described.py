"""Objects whose `repr` tells their options."""

import inspect

import numpy as np

MOST_SHOWN = 8  # entries of a list


class Described:
    """Gives a class a `repr` with those arguments of its constructor that it keeps.

    They are entries of its attribute `config`, if it has one, or attributes. Arrays are shown by
    their shapes.

    >>> Throughput(images_per_epoch=100, epochs=2)
    Throughput(images_per_epoch=100, epochs=2, seconds=10.0)
    """

    def __repr__(self):
        known = getattr(self, "config", {})
        options = {
            name: known.get(name, getattr(self, name, None))
            for name in inspect.signature(type(self)).parameters
            if name in known or hasattr(self, name)
        }
        shown = (f"{name}={_short(value)}" for name, value in options.items())
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value):
    if isinstance(value, np.ndarray):
        return f"<array {value.shape}>"
    if isinstance(value, list | tuple) and len(value) > MOST_SHOWN:
        return f"[{value[0]!r}, ... {len(value)} in all]"
    return repr(value)
