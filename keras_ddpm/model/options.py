"""Checks of the options of `compile`, `fit` and `evaluate` that Keras takes as they come."""

from keras_ddpm.validation import check_bool, check_int, check_number

COUNTS = {  # the smallest value of each
    "epochs": 1,
    "batch_size": 1,
    "validation_batch_size": 1,
    "steps": 1,
    "steps_per_epoch": 1,
    "validation_steps": 1,
    "initial_epoch": 0,
}


def check_compile_options(optimizer, loss, jit_compile, steps_per_execution=1, **_):
    """Refuses wrong options of `compile`; the other ones are left to Keras."""
    for name, value in {"optimizer": optimizer, "loss": loss}.items():
        if value is None:
            raise ValueError(f"{name}=None: training needs one.")
    if isinstance(loss, dict):
        raise TypeError(f"loss={loss!r} must be one loss: the network has one output.")
    if jit_compile != "auto":
        check_bool("jit_compile", jit_compile)
    check_int("steps_per_execution", steps_per_execution)


def check_fit_options(
    y=None, validation_split=0.0, validation_freq=1, class_weight=None, **options
):
    """Refuses wrong options of `fit` or `evaluate`; None is the default of most of them."""
    for name, minimum in COUNTS.items():
        if options.get(name, 1) is not None or name == "epochs":
            check_int(name, options.get(name, 1), minimum)
    check_number("validation_split", validation_split or 0.0, "[0, 1)")
    is_list = isinstance(validation_freq, list | tuple | set)
    for epoch in validation_freq if is_list else [validation_freq]:
        check_int("validation_freq", epoch)
    if class_weight is not None:
        if not isinstance(class_weight, dict):
            raise TypeError(f"class_weight={class_weight!r} must be a dict from labels to weights.")
        if y is None:
            raise ValueError("class_weight needs y: give data sets (x, labels, sample_weight).")
