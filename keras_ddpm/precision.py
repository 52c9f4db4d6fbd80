"""The same model, computing in another precision."""

import keras


def network_in(network, policy):
    """A copy of a network whose layers compute under another dtype policy, with the same weights.

    What the network returns is float32 all the same: errors of its output are errors of the image.

    Args:
        network: a functional `keras.Model`.
        policy: a dtype policy, or its name: `"float32"`, `"mixed_bfloat16"`, `"mixed_float16"`.

    Returns:
        A functional `keras.Model`.

    Example:

    >>> quick = network_in(model.ema_network, "mixed_bfloat16")
    """
    last = {tensor._keras_history.operation for tensor in network.outputs}

    def copy_layer(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):  # operations have no dtype of their own
            config["dtype"] = "float32" if layer in last else policy
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(network, clone_function=copy_layer)
    copy.set_weights(network.get_weights())
    return copy


def model_in(model, policy):
    """A copy of a `DiffusionModel` that samples in another precision. It is not compiled.

    Weights stay float32, so that it may be trained as well.

    Args:
        model: a `DiffusionModel`, left as it is.
        policy: as for `network_in`.

    Raises:
        ValueError: if there is no such policy, or its weights would be less than float32.

    Example:

    >>> quick = model_in(model, "mixed_bfloat16")  # where the device has bfloat16
    >>> images = quick.generate(16)
    """
    policy = keras.dtype_policies.get(policy)
    if policy.variable_dtype != "float32":
        raise ValueError(
            f"the dtype policy {policy.name!r} has weights in {policy.variable_dtype}; give "
            "'float32', 'mixed_bfloat16' or 'mixed_float16'."
        )
    config = model.get_config()
    config["network"] = keras.saving.serialize_keras_object(network_in(model.network, policy))
    copy = type(model).from_config(config)
    copy.ema_network.set_weights(model.ema_network.get_weights())
    copy.network.set_weights(model.network.get_weights())
    copy.data_mean.assign(model.data_mean)
    return copy
