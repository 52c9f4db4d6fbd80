"""Errors that name the argument, the value, and what would work."""

import difflib
import numbers


def nearest(name, known):
    """`", did you mean 'x'?"` for a mistyped name, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else "."


def check_choice(argument, value, choices):
    """Returns `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{argument}={value!r} is unknown; choose one of {sorted(choices)}"
            + nearest(value, choices)
        )
    return value


def check_positive_int(argument, value, minimum=1):
    """Returns `value` as an int if it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be an int, got {value!r} of type {type(value).__name__}.")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value}.")
    return int(value)


def check_fraction(argument, value):
    """Returns `value` as a float if it lies in [0, 1)."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be a number in [0, 1), got {value!r}.")
    return float(value)


def check_share(argument, value):
    """Returns `value` as a float if it lies in [0, 1]."""
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{argument} must be a number in [0, 1], got {value!r}.")
    return float(value)


def check_weight_dtypes(network):
    """Refuses weights too coarse to train: β₂ = 0.999 of Adam is 1 in bfloat16, for instance, where
    Keras then changes nothing, and the average would stand still as well."""
    for weight in network.trainable_weights:
        if weight.dtype in ("bfloat16", "float16"):
            raise ValueError(
                f"the weight {weight.path!r} is {weight.dtype}, too coarse for the small steps of "
                "training and of averaged weights. Build the network under the dtype policy "
                f'"mixed_{weight.dtype}": it computes in {weight.dtype} as well, with weights in '
                "float32."
            )
