"""Models for fine-tuning: the weights of one, with other classes or another image size."""

import keras
import numpy as np
from keras import ops

from keras_ddpm.presets import named_weights
from keras_ddpm.unet import UNet
from keras_ddpm.validation import check_class_names, check_int


def adapt(model, image_size, num_classes, class_names, options):
    """See `DiffusionModel.adapt`."""
    model.check_merged()
    if not isinstance(model.ema_network, UNet):
        raise ValueError(f"the network {model.network.name!r} is not a UNet, which `adapt` needs.")
    if num_classes is not None:
        num_classes = check_int("num_classes", num_classes, minimum=0)
    if class_names is not None:
        class_names = list(check_class_names("class_names", class_names))
        if num_classes not in (None, len(class_names)):
            raise ValueError(
                f"num_classes={num_classes} is not the {len(class_names)} class_names."
            )
        num_classes = len(class_names)
    if num_classes is None:  # all of them are kept
        num_classes, class_names = model.num_classes, model.class_names

    source = {k: ops.convert_to_numpy(w) for k, w in named_weights(model.ema_network).items()}
    network_config = {**model.ema_network.get_config(), "num_classes": num_classes or None}
    if image_size is not None:
        network_config["image_size"] = image_size
    network = UNet.from_config(network_config)
    table, bias = "label_embedding/embeddings", "time_dense_2/bias"
    if table in source and not num_classes:  # what "no label" added is added by the bias
        source[bias] = source[bias] + source[table][-1]
    for name, weight in named_weights(network).items():
        if name != table:
            weight.assign(source[name])
            continue
        rows = ops.convert_to_numpy(weight).copy()
        rows[-1] = source[table][-1] if table in source else 0  # "no label"
        for new, old in _kept_rows(model, num_classes, class_names):
            rows[new] = source[table][old]
        weight.assign(rows)
    config = {**model.get_config(), "class_names": class_names, "frozen": [], **options}
    config["network"] = keras.saving.serialize_keras_object(network)
    adapted = type(model).from_config(config)
    for one in (adapted.network, adapted.ema_network):
        one.set_weights(network.get_weights())
    return adapted


def _kept_rows(model, num_classes, class_names):
    """Pairs of numbers of the same class, in the new label embedding and in the old one.

    Classes are the same by their names. If neither has names, they are if there are as many.
    """
    if class_names is None and model.class_names is None:
        return [(i, i) for i in np.arange(num_classes)] if num_classes == model.num_classes else []
    old = model.class_names or []
    return [(i, old.index(name)) for i, name in enumerate(class_names or []) if name in old]
