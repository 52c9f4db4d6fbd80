"""A `UNet` as diffusers' `UNet2DModel`: its config, and the names of its tensors."""

import re

import numpy as np

from keras_ddpm.diffusers.scheduler import check_known, check_only, check_types, translate
from keras_ddpm.unet import UNet

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
# What these may be besides null.
OPTIONAL = {"sample_size": (int, list), "attention_head_dim": (int,), "num_class_embeds": (int,)}
# Of these keys `UNet` has one value only, which is also that of an absent key.
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
PLACES = {"down": "down_blocks.{}", "middle": "mid_block", "up": "up_blocks.{}"}
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
OLD_PARTS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LAYER = re.compile(
    r"(down|middle|up)_(?:(\d+)_)?(block|attention|halve|double)(?:_(\d+))?(?:/(.*))?"
)


def network_from_config(config, image_size=None):
    """A network with fresh weights, from the config.json of a `UNet2DModel`."""
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    check_known(config, {*DEFAULTS, *ONLY, TIME_SIZE})
    check_only(config, ONLY)
    config = DEFAULTS | config
    check_types(config, DEFAULTS, **OPTIONAL)
    for key in ("block_out_channels", "sample_size"):
        sizes = config[key] if isinstance(config[key], list) else [0]
        if not sizes or not all(type(size) is int for size in sizes):
            raise ValueError(f"{key}={sizes!r} must be a list of ints.")
    widths = config["block_out_channels"]
    usual = 4 * widths[0]
    check_only({TIME_SIZE: config.get(TIME_SIZE) or usual}, {TIME_SIZE: usual})
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"in_channels={config['in_channels']} and out_channels={config['out_channels']} must "
            "be equal: a learned variance is not supported."
        )
    if image_size is None and config["sample_size"] is None:
        raise ValueError("sample_size is missing: give image_size.")
    classes = config["num_class_embeds"]
    if classes is not None and classes < 2:
        raise ValueError(f"num_class_embeds={classes} must be at least 2: the last is no label.")
    attends = {}
    for key, side in (("down_block_types", "Down"), ("up_block_types", "Up")):
        kinds = {f"{side}Block2D": False, f"Attn{side}Block2D": True}
        old = {f"UNetRes{kind}": attends for kind, attends in kinds.items()}
        attends[side] = [translate(key, kind, kinds | old) for kind in config[key]]
    if attends["Down"] != attends["Up"][::-1]:
        raise ValueError("down_block_types and up_block_types must mirror each other.")
    return UNet(
        config["sample_size"] if image_size is None else image_size,
        channels=config["in_channels"],
        widths=widths,
        has_attention=attends["Down"],
        num_res_blocks=config["layers_per_block"],
        norm_groups=config["norm_num_groups"],
        norm_epsilon=config["norm_eps"],
        head_dim=config["attention_head_dim"],  # None: one head
        dropout=config["dropout"],
        num_classes=None if classes is None else classes - 1,
        downsample_padding=translate("downsample_padding", config["downsample_padding"], PADDINGS),
        cosine_first=config["flip_sin_to_cos"],
        freq_shift=config["freq_shift"],
    )


def config_of(network):
    """The config.json of a `UNet`; a ValueError if `UNet2DModel` has no such network."""
    if not isinstance(network, UNet):
        raise ValueError(f"{network.name!r} is not a UNet.")
    config = network.get_config()
    if config["patch_size"] > 1:
        raise ValueError(f"patch_size={config['patch_size']}: a UNet2DModel has no patches.")
    if config["condition_channels"]:
        raise ValueError(
            f"condition_channels={config['condition_channels']}: a UNet2DModel has no condition."
        )
    height, width = config["image_size"]
    attends, num_classes = config["has_attention"], config["num_classes"]
    paddings = {ours: theirs for theirs, ours in PADDINGS.items()}
    return {
        "_class_name": "UNet2DModel",
        **ONLY,
        TIME_SIZE: None,
        "sample_size": height if height == width else [height, width],
        "in_channels": config["channels"],
        "out_channels": config["channels"],
        "freq_shift": config["freq_shift"],
        "flip_sin_to_cos": config["cosine_first"],
        "down_block_types": [f"{'Attn' if one else ''}DownBlock2D" for one in attends],
        "up_block_types": [f"{'Attn' if one else ''}UpBlock2D" for one in reversed(attends)],
        "block_out_channels": list(config["widths"]),
        "layers_per_block": config["num_res_blocks"],
        "downsample_padding": paddings[config["downsample_padding"]],
        "dropout": config["dropout"],
        "attention_head_dim": _head_dim(**config),
        "norm_num_groups": config["norm_groups"],
        "norm_eps": config["norm_epsilon"],
        "num_class_embeds": None if num_classes is None else num_classes + 1,
    }


def _head_dim(widths, has_attention, num_heads, head_dim, **_):
    """Channels of a head, the same at every level; None if each level has one head."""
    if head_dim or num_heads == 1:
        return head_dim
    attending = {width for width, attends in zip(widths, has_attention) if attends}
    sizes = {width // num_heads for width in attending | {widths[-1]}}
    if len(sizes) > 1:
        raise ValueError(
            f"num_heads={num_heads} gives heads of {sorted(sizes)} channels, but those of a "
            "UNet2DModel have one size: build the UNet with head_dim instead."
        )
    return sizes.pop()


def tensor_name(path, levels):
    """What `UNet2DModel` calls a weight of ours.

    >>> tensor_name("down_0_block_1/conv_2/kernel", levels=4)
    'down_blocks.0.resnets.1.conv2.weight'
    """
    layer, weight = path.rsplit("/", 1)
    weight = "bias" if weight in ("bias", "beta") else "weight"
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{weight}"
    place, level, kind, number, part = LAYER.fullmatch(layer).groups()
    if place == "up":  # ours count from the image, theirs from the middle
        level = levels - 1 - int(level)
    names = [PLACES[place].format(level), KINDS[kind].format(number), PARTS.get(part), weight]
    return ".".join(filter(None, names))


def named_variables(network):
    """A dict from their names to our variables."""
    levels = len(network.get_config()["widths"])
    return {tensor_name(variable.path, levels): variable for variable in network.weights}


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


def with_current_names(tensors):
    """The same tensors, with older names of the attention layers replaced by current ones."""

    def rename(name):
        for old, new in OLD_PARTS.items() if ".attentions." in name else ():
            name = name.replace(f".{old}.", f".{new}.")
        return name

    return {rename(name): tensor for name, tensor in tensors.items()}
