"""The model that `keras-ddpm train --from` starts from."""

from dataclasses import asdict
from pathlib import Path

from keras_ddpm.conditions import CONDITIONINGS
from keras_ddpm.diffusers import SCHEDULER, from_diffusers
from keras_ddpm.model import DiffusionModel, load_diffusion_model
from keras_ddpm.unet import UNet
from keras_ddpm_cli.options import SECTIONS


def read_source(config):
    """The model of `config["from"]`; what it fixes replaces None in the configuration.

    A ValueError names an option that contradicts it.
    """
    source = config["from"]
    path = Path(source).expanduser()
    if (path / "scheduler").is_dir() or (path / SCHEDULER).is_file():
        model = DiffusionModel(*from_diffusers(path)[:2])
    else:
        model = load_diffusion_model(source, config.training.dtype_policy)
    if not isinstance(model.network, UNet):
        raise ValueError(f"from={source}: its network is not a UNet.")
    network = model.network.get_config()
    if config.training.remat and not network["remat"]:
        raise ValueError("--training.remat=True is not possible with --from.")
    height, width = network["image_size"]
    if config.data.image_size is None:
        if height != width:
            raise ValueError(
                f"--data.image_size must be given: {source} has {height}x{width} pixels."
            )
        config.data.image_size = height
    kinds = [name for name, kind in CONDITIONINGS.items() if type(model.conditioning) is kind]
    diffusion = asdict(SECTIONS["diffusion"]()) | model.diffusion.get_config()
    for section, values in (
        ("network", {key: network[key] for key in asdict(SECTIONS["network"]())}),
        ("diffusion", diffusion),
        ("data", {"channels": network["channels"], "condition": kinds[0] if kinds else None}),
    ):
        for key, value in values.items():
            value = list(value) if isinstance(value, tuple) else value
            given = config[section][key]
            if given not in (None, value):
                raise ValueError(
                    f"--{section}.{key}={given} contradicts --from {source}, whose model has "
                    f"{value}. Leave this option out."
                )
            config[section][key] = value
    return model
