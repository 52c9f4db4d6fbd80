"""A `GaussianDiffusion` and options of sampling, as the config of a scheduler of diffusers."""

from keras_ddpm.diffusion import GaussianDiffusion

SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}
VARIANCES = {"fixed_small": "posterior", "fixed_large": "beta"}
VARIANCES |= {f"{theirs}_log": ours for theirs, ours in VARIANCES.items()}
SPACINGS = {name: name for name in ("leading", "linspace", "trailing")}
# What the classes of diffusers 0.42 take an absent key for.
COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
DDPM = {**COMMON, "variance_type": "fixed_small"}
DDIM = {**COMMON, "set_alpha_to_one": True}
# The classes that are read. Others differ in their noise, or have keys with other meanings.
SCHEDULERS = {
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
}
# Keys that have one value only, which is also that of an absent key.
ONLY = {"clip_sample_range": 1.0, "steps_offset": 0, "set_alpha_to_one": True}
# What older versions called a key.
OLD_NAMES = {
    "timesteps": "num_train_timesteps",
    "clip_predicted_image": "clip_sample",
    "predict_epsilon": "prediction_type",
}
PREDICT_EPSILON = {True: "epsilon", False: "sample"}
WITHOUT_EFFECT = "tensor_format"  # also of older versions: arrays of PyTorch or of NumPy
# What a value in JSON is called.
KINDS = {int: "an int", float: "a number", bool: "true or false", str: "a string", list: "a list"}


def diffusion_from_config(config):
    """A `GaussianDiffusion`, and options of `generate`, from a scheduler_config.json.

    Without `_class_name` it is that of a DDPMScheduler, if all its keys are.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in list(SCHEDULERS):
        raise ValueError(
            f"_class_name={kind!r} is not supported, only {', '.join(SCHEDULERS)}. If the model "
            "was trained with the noise of one of these, save the pipeline with that scheduler."
        )
    config = _with_current_names(config)
    known = DDPM | DDIM  # diffusers keeps a key of the one class in a file of the other
    check_known(config, known)
    config = known | config
    check_types(config, known, trained_betas=[list])
    check_only(config, ONLY)
    betas, timesteps = config["trained_betas"], config["num_train_timesteps"]
    if betas is not None and len(betas) != timesteps:
        raise ValueError(f"num_train_timesteps={timesteps} is not the {len(betas)} trained_betas.")
    if betas is None:
        schedule = translate("beta_schedule", config["beta_schedule"], SCHEDULES)
    else:
        schedule = "linear"
    diffusion = GaussianDiffusion(
        timesteps,
        schedule,
        config["beta_start"],
        config["beta_end"],
        betas,
        prediction=translate("prediction_type", config["prediction_type"], PREDICTIONS),
        variance=translate("variance_type", config["variance_type"], VARIANCES),
        zero_terminal_snr=config["rescale_betas_zero_snr"],
    )
    clip = config["clip_sample"]
    if config["thresholding"]:
        # Its threshold s has a maximum. At 1 it is clipping, and our own s has none.
        check_only(config, {"sample_max_value": 1.0})
        clip = True
    spacing = translate("timestep_spacing", config["timestep_spacing"], SPACINGS)
    return diffusion, {"clip_denoised": clip, "spacing": spacing}


def config_of(diffusion):
    """The scheduler_config.json of a `GaussianDiffusion`."""
    ours = diffusion.get_config()
    config = {
        "_class_name": "DDPMScheduler",
        **DDPM,
        "num_train_timesteps": diffusion.timesteps,
        "prediction_type": _back(PREDICTIONS, diffusion.prediction),
        "variance_type": _back(VARIANCES, diffusion.variance),
    }
    if "betas" in ours or diffusion.schedule not in SCHEDULES.values():
        # As they are, rescaled or not.
        return {**config, "trained_betas": diffusion.betas.tolist()}
    return {
        **config,
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
        "beta_schedule": _back(SCHEDULES, diffusion.schedule),
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
    }


def _with_current_names(config):
    """The same settings, without those that begin with an underscore."""
    hidden = [key for key in config if key.startswith("_")]
    config = {key: config[key] for key in config.keys() - {*hidden, WITHOUT_EFFECT}}
    for old, new in OLD_NAMES.items():
        if old in config:
            value = config.pop(old)
            if old == "predict_epsilon":
                value = translate(old, value, PREDICT_EPSILON)
            if config.setdefault(new, value) != value:
                raise ValueError(f"{new}={config[new]!r} contradicts {old} in the same file.")
    return config


def _back(table, value):
    """The first of their names for one of ours."""
    return next(theirs for theirs, ours in table.items() if ours == value)


def translate(key, value, table):
    """Our name of a setting, by a dict from their names to ours."""
    if value not in list(table):  # a list, because the value may be one that a dict cannot look up
        raise ValueError(f"{key}={value!r} is not supported, only {', '.join(map(repr, table))}.")
    return table[value]


def check_only(config, only):
    """Refuses a config with another value than the only one that the package has; absent keys
    pass.
    """
    for key, value in only.items():
        translate(key, config.get(key, value), {value: value})


def check_known(config, known):
    """Refuses a key that is unknown, unless null or false says that it is not used."""
    for key, value in config.items():
        if key not in known and value is not None and value is not False:
            raise ValueError(f"{key}={value!r} is not supported: the key is unknown.")


def check_types(config, defaults, **optional):
    """Refuses a value of another type than that of the default. Keys in `optional` have one of the
    types given there, or are null.
    """
    for key, default in defaults.items():
        value = config[key]
        if value is None and key in optional:
            continue
        kinds = optional.get(key, (type(default),))
        allowed = (*kinds, int) if float in kinds else kinds
        if type(value) not in allowed:  # True is no int here
            words = " or ".join(KINDS[kind] for kind in kinds)
            raise ValueError(f"{key}={value!r} must be {words}.")
