"""Settings of another library: translated, or refused by name."""


def translate(key, value, words):
    """What we call a setting, by a dict from their words to ours."""
    if value not in words:
        raise ValueError(f"{key}={value!r} is not supported, only {', '.join(map(repr, words))}.")
    return words[value]


def check_only(config, only):
    """Refuses a config with a value that the package does not have.

    Args:
        config: dict, their settings; absent ones have their usual value.
        only: dict from keys to the one value that is supported.
    """
    for key, value in only.items():
        translate(key, config.get(key, value), {value: value})
