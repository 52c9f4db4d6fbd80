"""A `GaussianDiffusion` and options of sampling, as the config of a scheduler of diffusers."""

from keras_ddpm.diffusion import GaussianDiffusion

SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}
VARIANCES = {"fixed_small": "posterior", "fixed_large": "beta"}
VARIANCES |= {f"{theirs}_log": ours for theirs, ours in VARIANCES.items()}
SPACINGS = {name: name for name in ("leading", "linspace", "trailing")}
# What `DDPMScheduler` of diffusers 0.42 takes an absent key for.
DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
ONLY = {"clip_sample_range": 1.0, "steps_offset": 0}


def diffusion_from_config(config):
    """A `GaussianDiffusion`, and options of `generate`, from a scheduler_config.json."""
    check_only(config, ONLY)
    config = DEFAULTS | config
    betas = config["trained_betas"]
    schedule = "linear" if betas else translate("beta_schedule", config["beta_schedule"], SCHEDULES)
    diffusion = GaussianDiffusion(
        config["num_train_timesteps"],
        schedule,
        config["beta_start"],
        config["beta_end"],
        betas,
        prediction=translate("prediction_type", config["prediction_type"], PREDICTIONS),
        variance=translate("variance_type", config["variance_type"], VARIANCES),
        zero_terminal_snr=bool(config["rescale_betas_zero_snr"]),
    )
    clip = bool(config["clip_sample"])
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
        **DEFAULTS,
        **ONLY,
        "num_train_timesteps": diffusion.timesteps,
        "prediction_type": _back(PREDICTIONS, diffusion.prediction),
        "variance_type": _back(VARIANCES, diffusion.variance),
    }
    if "betas" in ours:  # as they are, rescaled or not
        return {**config, "trained_betas": ours["betas"]}
    return {
        **config,
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
        "beta_schedule": _back(SCHEDULES, diffusion.schedule),
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
    }


def _back(table, value):
    """The first of their names for one of ours."""
    return next(theirs for theirs, ours in table.items() if ours == value)


def translate(key, value, table):
    """Our name of a setting, by a dict from their names to ours."""
    if value not in table:
        raise ValueError(f"{key}={value!r} is not supported, only {', '.join(map(repr, table))}.")
    return table[value]


def check_only(config, only):
    """Refuses a config with another value than the only one that the package has; absent keys
    pass.
    """
    for key, value in only.items():
        translate(key, config.get(key, value), {value: value})
