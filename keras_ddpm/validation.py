"""Checks of arguments: every error begins with the argument and its value."""

import difflib
import numbers
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

PIXEL_TOLERANCE = 1e-3  # a resize may leave [-1, 1] by rounding, but not by more


def did_you_mean(name, known) -> str:
    """`", did you mean 'x'?"` for a mistyped name, else a full stop."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else "."


def check_choice(argument, value, choices) -> str:
    """Returns `value` if it is one of the strings in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{argument}={value!r} is unknown; choose one of {sorted(choices)}"
            + did_you_mean(value, choices)
        )
    return str(value)


def check_int(argument, value, minimum=1, maximum=None) -> int:
    """Returns `value` as an int if it is a whole number in [minimum, maximum]."""
    limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument}={value!r} must be an int, {limits}.")
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f"{argument}={value} must be {limits}.")
    return int(value)


def check_number(argument, value, interval):
    """Returns `value` as a float if it lies in an interval such as `"[0, 1)"` or `"(0, inf)"`."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument}={value!r} must be a number in {interval}.")
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    if not (above and below):  # NaN is neither
        raise ValueError(f"{argument}={value!r} must be a number in {interval}.")
    return float(value)


def check_bool(argument, value) -> bool:
    """Returns `value` as a bool if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument}={value!r} must be True or False.")
    return bool(value)


def check_instance(argument, value, kind):
    """Returns `value` if it is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{argument}={value!r} must be a {kind.__name__}.")
    return value


def check_function(argument, value, what):
    """Returns `value` if it can be called; `what` describes it, such as "a function of images"."""
    if not callable(value):
        raise TypeError(f"{argument}={value!r} must be {what}.")
    return value


def check_path(argument, value) -> Path:
    """Returns the path of a file or folder as a `pathlib.Path`."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{argument}={value!r} must be a path.")
    return Path(value).expanduser()


def check_size(argument, size):
    """Returns an image size, an int or (height, width), as a tuple of two ints."""
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"{argument}={size!r} must be an int or (height, width).")
    return tuple(check_int(argument, side) for side in sides)


def to_array(argument, value) -> np.ndarray:
    """`value` as a NumPy array, if it has a shape."""
    try:
        return np.asarray(value)
    except ValueError:  # NumPy's own error does not name the argument
        raise ValueError(f"{argument} holds lists of different lengths.") from None


def check_array(argument, value, shape) -> np.ndarray:
    """Returns finite numbers as an array if they have this shape, where None is any length >= 1.

    A shape that ends with `...` may go on.
    """
    array, known = to_array(argument, value), [size for size in shape if size is not Ellipsis]
    sizes = array.shape[: len(known)] if ... in shape else array.shape
    fits = len(sizes) == len(known) and all(b in (a, None) for a, b in zip(sizes, known))
    if not fits or 0 in array.shape:
        words = str(tuple({None: "n", Ellipsis: "..."}.get(size, size) for size in shape))
        words = words.replace("'", "")
        raise ValueError(
            f"{argument} has shape {array.shape}, but must be {words}, without an empty axis."
        )
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{argument} has dtype {array.dtype}, but must hold numbers.")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} holds NaN or infinite values.")
    return array


def check_output(argument, output, expected):
    """Refuses an output that is no tensor of this shape; None in a shape is an unknown size.

    A known size of 1 in the place of an unknown one would be repeated in silence.
    """
    shape = tuple(getattr(output, "shape", ()))
    fits = len(shape) == len(expected) and all(
        a == b or (None in (a, b) and a != 1) for a, b in zip(shape, expected)
    )
    if not hasattr(output, "shape") or not fits:
        found = f"shape {shape}" if hasattr(output, "shape") else f"a {type(output).__name__}"
        raise ValueError(
            f"{argument} returned {found}, but must return a tensor of shape {tuple(expected)}, "
            "like its x_t."
        )


def check_images(argument, images, shape=None) -> np.ndarray:
    """Returns samples `(n, ...)` as uint8, or as float32 in [-1, 1].

    Without `shape`, that of one sample, they must be images `(n, height, width, channels)`. Samples
    that are not images, such as points `(features,)`, need only be finite floats.
    """
    images = to_array(argument, images)
    expected = "(n, height, width, channels)" if shape is None else f"(n, {str(tuple(shape))[1:]}"
    fits = images.ndim == 4 if shape is None else images.shape[1:] == tuple(shape)
    if not fits or 0 in images.shape:
        raise ValueError(
            f"{argument} has shape {images.shape}, but must be {expected} with n >= 1. Give a "
            "single sample as `sample[None]`."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"{argument} has dtype {images.dtype}; give uint8, or float in [-1, 1].")
    limit = 1 + PIXEL_TOLERANCE if images.ndim == 4 else np.finfo("float32").max
    low, high = images.min(), images.max()
    if not (-limit <= low and high <= limit):  # NaN is neither
        raise ValueError(
            f"{argument} holds values from {low:.4g} to {high:.4g} or NaN, but must be uint8, or "
            "float in [-1, 1]. For floats in [0, 255] use `x.astype('uint8')`, for floats in "
            "[0, 1] use `2 * x - 1`, and for unclipped samples `np.clip(x, -1, 1)`."
        )
    return images.astype("float32")


def check_labels(argument, labels, count, num_classes=None, class_names=None) -> np.ndarray:
    """Returns class labels as int32 `(count,)`: one label for all, or one for each of `count`
    samples.

    They are ints in [0, num_classes), or names among `class_names`, or some of both.
    """
    array = to_array(argument, labels)
    has_bool = isinstance(labels, list | tuple) and any(isinstance(one, bool) for one in labels)
    if array.dtype.kind not in "iu" or has_bool:
        array = np.array(labels, object)  # before NumPy makes names of the ints beside names
        found = [_label_number(argument, label, class_names) for label in array.ravel()]
        array = np.array(found, object).reshape(array.shape)
    if array.shape not in ((), (count,)):
        raise ValueError(
            f"{argument} has shape {array.shape}, but must be one label, or {count} of them, one "
            "for each sample."
        )
    largest = np.iinfo("int32").max if num_classes is None else num_classes - 1
    if array.size and not (0 <= array.min() and array.max() <= largest):
        raise ValueError(
            f"{argument} holds values from {array.min()} to {array.max()}, but must lie in "
            f"[0, {largest}]. Labels that begin at 1 need `labels - 1`."
        )
    return np.broadcast_to(array, (count,)).astype("int32")


def _label_number(argument, label, class_names):
    """The number of a class that is given as an int or by its name."""
    if isinstance(label, numbers.Integral) and not isinstance(label, bool):
        return int(label)
    if not isinstance(label, str) or class_names is None:
        needed = "must hold ints" + ("" if class_names is None else " or class names")
        reason = ", since the classes have no names" if isinstance(label, str) else ""
        raise TypeError(f"{argument} holds {label!r}, but {needed}{reason}.")
    if label not in class_names:
        raise ValueError(
            f"{argument}: {str(label)!r} is not one of the {len(class_names)} class names"
            + did_you_mean(label, class_names)
        )
    return list(class_names).index(label)


def check_class_names(argument, names) -> tuple[str, ...]:
    """Returns the names of classes, strings that differ from each other, as a tuple."""
    if isinstance(names, str | set) or not isinstance(names, Iterable):  # a set has no order
        raise TypeError(f"{argument}={names!r} must be a list of strings.")
    names = tuple(names)
    if not names:
        raise ValueError(f"{argument}={names} must have at least one name.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: {name!r} must be a string.")
        if name != name.encode(errors="replace").decode():  # bytes of a folder's name
            raise ValueError(f"{argument}: {name!r} must be text that UTF-8 has.")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{argument}: {name!r} is there {count} times.")
    return tuple(map(str, names))
