"""A `GaussianDiffusion`, and how to sample it, in the words of diffusers' schedulers."""

from keras_ddpm.diffusion import GaussianDiffusion
from keras_ddpm.interop.settings import check_only, translate

SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}
VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
}
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
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
ONLY = {"clip_sample_range": 1.0, "steps_offset": 0}


def diffusion_from_config(config):
    """A `GaussianDiffusion`, and options of `generate`, from a scheduler_config.json.

    Raises:
        ValueError: if the package has no such process, naming the key.
    """
    check_only(config, ONLY)
    config = DEFAULTS | config
    betas, schedule = config["trained_betas"], config["beta_schedule"]
    if betas is None:
        options = {
            "timesteps": config["num_train_timesteps"],
            "schedule": translate("beta_schedule", schedule, SCHEDULES),
            "beta_start": config["beta_start"],
            "beta_end": config["beta_end"],
        }
    else:
        options = {"betas": betas}
    diffusion = GaussianDiffusion(
        **options,
        prediction=translate("prediction_type", config["prediction_type"], PREDICTIONS),
        variance=translate("variance_type", config["variance_type"], VARIANCES),
        zero_terminal_snr=bool(config["rescale_betas_zero_snr"]),
    )
    clip = bool(config["clip_sample"])
    if config["thresholding"]:
        clip = config["dynamic_thresholding_ratio"]
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


def _back(words, value):
    """The first of their words for one of ours."""
    return next(theirs for theirs, ours in words.items() if ours == value)
