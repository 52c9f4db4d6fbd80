"""The U-Net in the words of diffusers' `UNet2DModel`: its config, and the names of its tensors."""

import re

import numpy as np
from keras import layers

from keras_ddpm.interop.settings import check_only, translate
from keras_ddpm.layers import SelfAttention
from keras_ddpm.unet import build_unet

# What `UNet2DModel` of diffusers 0.42 takes an absent key for.
DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D"] + 3 * ["AttnDownBlock2D"],
    "up_block_types": 3 * ["AttnUpBlock2D"] + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
}
# Of these keys `build_unet` knows one value only, which is also what an absent key means.
ONLY = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "add_attention": True,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_train_timesteps": None,
}
# And of this one: absent, or four times the first width.
TIME_SIZE = "time_embedding_dim"
PADDINGS = {0: "end", 1: "both"}

WHOLE = {
    "conv_in": "conv_in",
    "time_dense_1": "time_embedding.linear_1",
    "time_dense_2": "time_embedding.linear_2",
    "label_embedding": "class_embedding",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
ROOMS = {"down": "down_blocks.{}", "middle": "mid_block", "up": "up_blocks.{}"}
KINDS = {
    "block": "resnets.{}",
    "attention": "attentions.{}",
    "halve": "downsamplers.0.conv",
    "double": "upsamplers.0.conv",
}
PARTS = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "time": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "projection": "to_out.0",
}
OLD_PARTS = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
WEIGHTS = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
}
PLACE = re.compile(
    r"(down|middle|up)_(?:(\d+)_)?(block|attention|halve|double)(?:_(\d+))?[_/]?(.*)"
)


# ---- the architecture -----------------------------------------------------------------------


def network_from_config(config, image_size=None):
    """A network with fresh weights, from the config.json of a `UNet2DModel`.

    Raises:
        ValueError: if `build_unet` cannot build it, naming the key.
    """
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    check_only(config, ONLY)
    for key, value in config.items():
        if value and key not in (*DEFAULTS, *ONLY, TIME_SIZE):
            raise ValueError(f"{key}={value!r} is not supported: the key is unknown.")
    config = DEFAULTS | config
    usual = 4 * config["block_out_channels"][0]
    check_only({TIME_SIZE: config.get(TIME_SIZE) or usual}, {TIME_SIZE: usual})
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"in_channels={config['in_channels']} and out_channels={config['out_channels']} must "
            "be equal: a learned variance is not supported."
        )
    if image_size is None and config["sample_size"] is None:
        raise ValueError("sample_size is missing: give image_size.")
    padding = translate("downsample_padding", config["downsample_padding"], PADDINGS)
    classes = config["num_class_embeds"]
    if classes is not None and classes < 2:
        raise ValueError(
            f"num_class_embeds={classes} must be at least 2: the last is that of no label."
        )
    return build_unet(
        config["sample_size"] if image_size is None else image_size,
        channels=config["in_channels"],
        widths=tuple(config["block_out_channels"]),
        has_attention=_attending(config["down_block_types"], config["up_block_types"]),
        num_res_blocks=config["layers_per_block"],
        norm_groups=config["norm_num_groups"],
        norm_epsilon=config["norm_eps"],
        head_dim=config["attention_head_dim"],  # None: one head
        dropout=config["dropout"],
        num_classes=None if classes is None else classes - 1,
        downsample_padding=padding,
        cosine_first=config["flip_sin_to_cos"],
        freq_shift=config["freq_shift"],
    )


def _attending(down_block_types, up_block_types):
    for types, name in ((down_block_types, "Down"), (up_block_types, "Up")):
        for kind in types:
            if kind not in (f"{name}Block2D", f"Attn{name}Block2D"):
                raise ValueError(
                    f"a block {kind!r} is not supported, only '{name}Block2D' and "
                    f"'Attn{name}Block2D'."
                )
    attending = [kind.startswith("Attn") for kind in down_block_types]
    if attending != [kind.startswith("Attn") for kind in reversed(up_block_types)]:
        raise ValueError(
            f"down_block_types={list(down_block_types)} and up_block_types={list(up_block_types)} "
            "must mirror each other."
        )
    return attending


def config_of(network):
    """The config.json of a network that `build_unet` made.

    Raises:
        ValueError: if it is another network, or if `UNet2DModel` has no words for it.
    """
    by_name = {layer.name: layer for layer in network.layers}
    if "conv_in" not in by_name or "middle_block_0_conv_1" not in by_name:
        raise ValueError(f"{network.name!r} is not a network that `build_unet` made.")
    levels = _count(r"up_\d+_block_0_conv_1", by_name)
    widths = [by_name[f"down_{i}_block_0_conv_1"].filters for i in range(levels)]
    attends = [f"down_{i}_attention_0" in by_name for i in range(levels)]
    time, norm = by_name["time_embedding"], by_name["norm_out"]
    dropouts = [layer.rate for layer in network.layers if isinstance(layer, layers.Dropout)]
    padded = any(isinstance(layer, layers.ZeroPadding2D) for layer in network.layers)
    height, width, channels = network.output_shape[1:]
    classes = by_name["label_embedding"].input_dim if "label_embedding" in by_name else None
    return {
        "_class_name": "UNet2DModel",
        **ONLY,
        TIME_SIZE: None,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "freq_shift": time.freq_shift,
        "flip_sin_to_cos": time.cosine_first,
        "down_block_types": [f"{'Attn' if one else ''}DownBlock2D" for one in attends],
        "up_block_types": [f"{'Attn' if one else ''}UpBlock2D" for one in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": _count(r"down_0_block_\d+_conv_1", by_name),
        "downsample_padding": 1 if padded else 0,
        "dropout": dropouts[0] if dropouts else 0.0,
        "attention_head_dim": _head_dim(network),
        "norm_num_groups": norm.groups,
        "norm_eps": norm.epsilon,
        "num_class_embeds": classes,
    }


def _count(pattern, names):
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _head_dim(network):
    """Channels of a head, the same at every level; None if each level has one head."""
    found = {
        (layer.num_heads, layer.query.units // layer.num_heads)
        for layer in network.layers
        if isinstance(layer, SelfAttention)
    }
    if {heads for heads, _ in found} == {1}:
        return None
    if len({dim for _, dim in found}) > 1:
        raise ValueError(
            f"heads of different sizes, {sorted(dim for _, dim in found)} channels, cannot be "
            "written: give `build_unet` head_dim instead of num_heads."
        )
    [dim] = {dim for _, dim in found}
    return dim


# ---- the tensors ------------------------------------------------------------------------------


def tensor_name(path, levels):
    """What `UNet2DModel` calls a weight of ours.

    >>> tensor_name("down_0_block_1_conv_2/kernel", levels=4)
    'down_blocks.0.resnets.1.conv2.weight'
    """
    layer, weight = path.rsplit("/", 1)
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{WEIGHTS[weight]}"
    room, level, kind, number, part = PLACE.fullmatch(layer).groups()
    if room == "up":  # ours are numbered from the image, theirs from the middle
        level = levels - 1 - int(level)
    names = [
        ROOMS[room].format(level),
        KINDS[kind].format(number),
        PARTS.get(part),
        WEIGHTS[weight],
    ]
    return ".".join(filter(None, names))


def named_variables(network):
    """A dict from their names to our variables."""
    prefix = f"{network.name}/"
    paths = {variable.path.removeprefix(prefix): variable for variable in network.weights}
    levels = _count(r"up_\d+_block_0_conv_1/kernel", paths)
    return {tensor_name(path, levels): variable for path, variable in paths.items()}


def to_theirs(array, variable):
    """Our array in the order of their axes, contiguous."""
    if variable.path.endswith("/kernel"):  # (height, width, in, out), or (in, out)
        array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return np.ascontiguousarray(array)


def to_ours(array, variable):
    """Their array in the order of our axes."""
    if variable.path.endswith("/kernel"):
        array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
    return array


def new_names(tensors):
    """The same tensors, with older names of attention's replaced by today's."""
    old = {f".{before}.": f".{now}." for now, before in OLD_PARTS.items()}
    renamed = {}
    for name, tensor in tensors.items():
        for before, now in old.items():
            if ".attentions." in name:
                name = name.replace(before, now)
        renamed[name] = tensor
    return renamed
