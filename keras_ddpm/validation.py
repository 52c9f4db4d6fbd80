"""Checks of arguments: every error begins with the argument and its value."""

import difflib
import numbers

import numpy as np

PIXEL_TOLERANCE = 1e-3  # a resize may leave [-1, 1] by rounding, but not by more


def did_you_mean(name, known):
    """`", did you mean 'x'?"` for a mistyped name, else a full stop."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else "."


def check_choice(argument, value, choices):
    """Returns `value` if it is one of the strings in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{argument}={value!r} is unknown; choose one of {sorted(choices)}"
            + did_you_mean(value, choices)
        )
    return value


def check_int(argument, value, minimum=1):
    """Returns `value` as an int if it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument}={value!r} must be an int of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{argument}={value} must be at least {minimum}.")
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


def check_bool(argument, value):
    """Returns `value` as a bool if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument}={value!r} must be True or False.")
    return bool(value)


def check_size(argument, size):
    """Returns an image size, an int or (height, width), as a tuple of two ints."""
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"{argument}={size!r} must be an int or (height, width).")
    return tuple(check_int(argument, side) for side in sides)


def check_images(argument, images, shape=None):
    """Returns samples `(n, ...)` as uint8, or as float32 in [-1, 1].

    Without `shape`, that of one sample, they must be images `(n, height, width, channels)`. Samples
    that are not images, such as points `(features,)`, need only be finite floats.
    """
    images = np.asarray(images)
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


def check_labels(argument, labels, count, num_classes=None, class_names=None):
    """Returns class labels as int32 `(count,)`: one label for all, or one for each of `count`
    samples.

    They are ints in [0, num_classes), or names among `class_names`.
    """
    array = np.asarray(labels)
    if array.dtype.kind == "U" and class_names is not None:
        for name in array.ravel():
            if name not in class_names:
                raise ValueError(
                    f"{argument}: {str(name)!r} is not one of the {len(class_names)} class names"
                    + did_you_mean(name, class_names)
                )
        numbers = [list(class_names).index(name) for name in array.ravel()]
        array = np.array(numbers, "int32").reshape(array.shape)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{argument} has dtype {array.dtype}, but must hold ints"
            + (", since the classes have no names." if class_names is None else " or class names.")
        )
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
