"""Wrong calls. Each error begins with the argument, and says what would work."""

import functools
import itertools
import re

import numpy as np
import pytest
from tools import FLOATS, IMAGES, make_model, shared_model

import keras_ddpm as kd
from keras_ddpm import clipping, layers, metrics, pixels, samplers
from keras_ddpm.samplers.inversion import DDIMInversion
from keras_ddpm.samplers.repaint import RePaint
from keras_ddpm.samplers.trajectory import Trajectory

pytestmark = pytest.mark.once
NAN, HUGE = float("nan"), 2**32 + 1
INT = (0, -1, True, 1.5, "1", None, [1], NAN)  # none of them an int of at least 1
DIFFUSION = kd.GaussianDiffusion(50, "cosine")
POINTS, FEATURES = np.zeros((3, 2)), np.random.default_rng(0).normal(size=(20, 3))
PHOTOS, ONES = IMAGES.repeat(2, 1).repeat(2, 2).repeat(3, 3), np.ones((8, 8))
HISTORY = Trajectory(np.arange(3), *[np.stack([FLOATS] * 3)] * 2)
EYE, SLANTED, ZERO = np.eye(2), np.triu(np.ones((2, 2))), np.zeros(2)
MOMENTS = {"mean_a": ZERO, "mean_b": ZERO, "covariance_a": EYE, "covariance_b": EYE}
NO_SHAPE = (None, 3, FLOATS[0], FLOATS[:0])
NO_PIXELS = (FLOATS * 9, FLOATS * np.nan, FLOATS.astype(int), FLOATS > 0, FLOATS.astype(str))
NO_STEPS = ([50], [-1], "all", 2.5, [[0]], None)
NO_ROWS = (None, FEATURES[0], FEATURES[:1], FEATURES[:, :0])
FINITE = "(holds NaN or infinite|has dtype .* must hold numbers)"


def no_numbers(x):
    return x * np.nan, x + np.inf, x * 1j, x > 0, x.astype(str)


def using(function, **right):
    """The function with right arguments, of which one may be replaced by a wrong one."""
    return lambda **wrong: function(**{**right, **wrong})


def block(layer_class, input_shape, **right):
    make = using(layer_class, norm_groups=4, **right)
    return lambda **wrong: make(**wrong).build(input_shape)


def edit(function, **right):
    return lambda **wrong: using(function, model=shared_model(), steps=2, **right)(**wrong)


named_model = functools.cache(lambda: make_model(3, class_names=("rose", "tulip", "daisy")))
LEVELS = {"widths": (8, 16), "has_attention": (False, True), "norm_groups": 4}
unet = using(kd.UNet, image_size=8, **LEVELS)
residual = block(layers.ResidualBlock, [(2, 4, 4, 8), (2, 4)], width=8)
attention, embedding = block(layers.SelfAttention, (2, 4, 4, 8)), using(layers.TimeEmbedding, dim=8)
initial = layers.VarianceScaling(0)
q_sample = using(DIFFUSION.q_sample, x_start=POINTS, noise=POINTS)
clip = using(clipping.clip_start, x_start=FLOATS)
choose, ddpm = using(samplers.choose_timesteps, diffusion=DIFFUSION), using(kd.DDPM)
get_ddpm, get_given = (using(samplers.get_sampler, sampler=s) for s in ("ddpm", kd.DDIM()))
generate = using(lambda **options: shared_model().generate(**options), num_images=2)
watch = using(lambda **options: shared_model().watch(**options), num_images=2)
unnamed = using(lambda **options: shared_model(3).generate(**options), num_images=2)
named = using(lambda **options: named_model().generate(**options), num_images=2, labels=0)
sample = using(kd.sample, denoiser=lambda x, t: x, diffusion=DIFFUSION, noise=POINTS, steps=2)
vary, find = edit(kd.image_to_image, images=FLOATS), edit(kd.invert, images=FLOATS)
fill = edit(kd.inpaint, images=FLOATS, mask=ONES)
between = edit(kd.interpolate, first=FLOATS, second=FLOATS)
mixes = [using(mix, first=POINTS, second=POINTS, share=0.5) for mix in (kd.lerp, kd.slerp)]
grid, strip = using(kd.image_grid, images=FLOATS), using(kd.filmstrip, trajectory=HISTORY)
save = using(kd.save_image, path="a.png", image=FLOATS[0])
gif = using(kd.save_gif, path="a.gif", frames=FLOATS)
PAIR = {"features_a": FEATURES, "features_b": FEATURES}
frechet, kid = using(metrics.frechet_distance, **PAIR), using(metrics.kid, **PAIR)
moments = using(metrics.frechet_distance_of_moments, **MOMENTS)
bias = using(metrics.frechet_bias, features=FEATURES)
extract = using(metrics.extract, extractor=lambda x: x.mean((1, 2)), images=FLOATS)
lenet = using(metrics.LeNetFeatures, images=PHOTOS, labels=np.arange(8) % 2)
nearest = using(metrics.nearest_neighbours, samples=FLOATS, training_images=FLOATS)
neighbours = using(metrics.nearest_grid, samples=FLOATS, training_images=FLOATS[:4], indices=0)
evaluate = using(metrics.EvaluateSamples, extractor=len, images=FLOATS)
exact = using(kd.OptimalDenoiser, data=POINTS, diffusion=DIFFUSION)
optimal = kd.OptimalDenoiser(POINTS, DIFFUSION, [0, 1, 1])
call = using(optimal, x_t=POINTS, t=np.int32([1] * 3))

# A function or several, arguments, wrong values for each of them, and how the error goes on.
ROWS = {
    "diffusion": [
        (kd.GaussianDiffusion, "timesteps", (*INT, 10**12), "from 1 to 1000000"),
        (kd.GaussianDiffusion, "schedule", ("cosin",), "did you mean 'cosine'"),
        (kd.GaussianDiffusion, "beta_start", (0, NAN), r"a number in \(0, 1\)"),
        (kd.GaussianDiffusion, "beta_end", (1, "0.1", None), r"a number in \(0, 1\)"),
        (kd.GaussianDiffusion, "betas", ("linear", [], [[0.1]], 0.5), "must be a 1-D sequence"),
        (kd.GaussianDiffusion, "betas", ([0.5, 0], [NAN, 0.5]), r"must lie in \(0, 1\)"),
        (kd.GaussianDiffusion, "betas", ([0.1, 1, 0.5], [0.1, 1.5]), "only the last may be 1"),
        (kd.GaussianDiffusion, "prediction", (3, "velocty"), "choose one of .*'velocity'"),
        (kd.GaussianDiffusion, "variance", ("betas",), "did you mean 'beta'"),
        (kd.GaussianDiffusion, "zero_terminal_snr", ("no", 1, None), "must be True or False"),
        (q_sample, "t", ([50] * 3, [-1] * 3, [0.5] * 3), r"must hold ints in \[0, 49\]"),
        (clip, "clip_denoised", (0, 1, 1.5, NAN, "dynamic", None), "True, False, or a percentile"),
    ],
    "networks": [
        (unet, "image_size", (0, (8, 0), 8.0, "8", None), "at least 1"),
        (unet, "image_size", (9, (8, 7), (8, 8, 1)), r"(nearest sizes are|\(height, width\))"),
        (unet, "widths", (8, None, "ab"), "must be a list with one entry for each level"),
        (unet, "widths", ((8,), ()), "must have one entry for each level"),
        (unet, "widths", ((8, 16.5), (8, 0)), "at least 1"),
        (unet, "widths", ((8, 18),), "divisible by norm_groups=4; 18 is not"),
        (unet, "has_attention", ((0, 1), ("no", True)), "True or False"),
        (unet, "channels num_res_blocks norm_groups num_heads", INT, "at least 1"),
        (unet, "num_classes head_dim", INT[:5], "at least 1"),
        (unet, "num_heads head_dim", (3, 5), "must divide the width .* not divide 16"),
        ((unet, residual, attention), "norm_epsilon", (-1, 0.0, NAN, None), r"in \(0, inf\)"),
        ((unet, residual), "dropout", (1.0, -0.1, True), r"a number in \[0, 1\)"),
        (unet, "downsample_padding", ("ends",), "did you mean 'end'"),
        ((unet, embedding), "freq_shift", (2, 0.5, True), "from 0 to 1"),
        ((unet, embedding), "cosine_first", (1, "no", None), "True or False"),
        ((unet, residual, attention), "remat", (1, "no", None), "True or False"),
        (unet, "dtype", ("float31", 3), "must be a dtype policy, such as 'float32'"),
        (kd.MLP, "width", (2, 3.5), "at least 4"),
        (kd.MLP, "width", (7,), "must be even"),
        (kd.MLP, "features depth num_classes", (0, 1.5), "at least 1"),
        (embedding, "dim", (2, 8.0), "at least 4"),
        (embedding, "dim", (5,), "must be even"),
        (residual, "width norm_groups", INT, "at least 1"),
        (residual, "norm_groups", (3,), "must divide the 8 channels"),
        (attention, "num_heads norm_groups", (3,), "must divide the 8 channels"),
        (attention, "num_heads norm_groups", INT, "at least 1"),
        (layers.VarianceScaling, "seed", (-1, True), "at least 0"),
        (initial, "shape", ((3,), (0, 3), None), r"must be \(..., inputs, outputs\)"),
        (kd.FusedAdam, "amsgrad", (True,), "not supported; use keras"),
        (kd.FusedAdam, "learning_rate epsilon", (NAN, -1, 1j), r"a number in \[0, inf\)"),
        (kd.FusedAdam, "beta_1 beta_2", (1, -1, "0.9"), r"a number in \[0, 1\)"),
    ],
    "samplers": [
        ((ddpm, choose, find), "spacing", ("leadin", 3, ""), "choose one of .*'leading'"),
        (choose, "spacing", (None,), "choose one of .*'leading'"),
        ((ddpm, choose), "timesteps", ([1, 5], [5, -1], [5, 5]), "must descend from noise to"),
        (ddpm, "timesteps", ([5.0, 1.0], [], 5, "ab", [[5]], [True, False]), "a list of ints"),
        (kd.Heun, "max_growth", (1, "2"), r"a number in \(1, inf\]"),
        (DDIMInversion, "evaluations", (0, 1.5), "at least 1"),
        (RePaint, "resample_steps jump_length", (0, "1"), "at least 1"),
        ((choose, generate, sample, find), "steps", (51,), "more than the 50 timesteps"),
        ((choose, ddpm, generate, sample, find), "steps", INT[:5], "at least 1"),
        ((choose, generate, sample), "timesteps", ([50, 5],), r"must lie in \[0, 49\]"),
        ((choose, sample), "diffusion", (None, "linear"), "must be a GaussianDiffusion"),
        (samplers.get_sampler, "sampler", ("dimm", 7, None), "choose one of .*'ddim'"),
        (samplers.get_sampler, "stps", (5,), "options of .*did you mean 'steps'"),
        (samplers.get_sampler, "max_growth", (2.0,), "options of sampler='ddim' are"),
        (get_ddpm, "eta", (0.5,), "options of sampler='ddpm' are spacing"),
        (get_given, "steps", (5,), r"give options to DDIM\(.*\) itself"),
    ],
    "generate": [
        ((generate, watch), "num_images", INT, "at least 1"),
        (generate, "labels", (0,), "were given, but the network has no classes"),
        (generate, "guidance_scale", (2.0,), "needs labels to guide towards"),
        (generate, "sampler", ("ddmp",), "did you mean 'ddpm'"),
        (generate, "clip_denoised", (1.5, "yes"), "must be True, False, or a percentile"),
        ((generate, sample), "seed", (-1, 0.5, "a", True), "at least 0"),
        (generate, "noise", (FLOATS[:1], FLOATS[0], 3, []), r"must be \(2, 8, 8, 1\)"),
        (generate, "noise", no_numbers(FLOATS[:2]), FINITE),
        (generate, "given", (3, [FLOATS[:1]]), r"must be a tuple of arrays \(2, ...\)"),
        (generate, "progress", ("no", 1), "True or False"),
        ((generate, sample), "return_trajectory", NO_STEPS, "must be True, False, an int, or a"),
        (generate, "stps", (5,), "did you mean 'steps'"),
        ((kd.DDIM, generate), "eta", (-0.5, NAN, "1", True), r"a number in \[0, inf\)"),
        ((generate, sample), "eta", (5.0,), "try eta <= 1"),
        (watch, "frames", NO_STEPS, "must be True, False, an int, or a list"),
        (named, "labels", (HUGE, [0, HUGE], [0, 2**70], [0, -1], 3), r"must lie in \[0, 2\]"),
        (named, "labels", ([0, 1, 2], [[0], [1]], []), "must be one label, or 2 of them"),
        (named, "labels", (0.5, True, [0, None], {}, b"rose"), "must hold ints or class names"),
        (named, "labels", (["rose", "dasy"], ["dasy", 1], "dasy"), "class names, .*'daisy'"),
        (named, "guidance_scale", (-1.0, NAN, "2", [1.0, 2.0, 3.0]), "one number of at least 0"),
        (unnamed, "labels", ("rose",), "must hold ints, since the classes have no names"),
        (sample, "denoiser", (None, "unet", []), "must be a function"),
        (sample, "denoiser", (lambda x, t: x[:, :1],), r"returned shape \(.*, 1\), .*, 2\)"),
        (sample, "denoiser", (lambda x, t: x[None],), "returned shape .* like its x_t"),
        (sample, "denoiser", (lambda x, t: [x],), "returned a list, but must return a tensor"),
        (sample, "denoiser", (lambda x, t: 0.0,), "returned a float, but must return a tensor"),
        (sample, "noise", (3, [], POINTS[:0], None, "x"), r"must be \(n, ...\)"),
        (sample, "noise", no_numbers(POINTS), FINITE),
    ],
    "edits": [
        ((vary, find, fill), "images", (*NO_SHAPE, FLOATS[:, 1:]), r"must be \(n, 8, 8, 1\)"),
        (vary, "images", NO_PIXELS, "(must be|give) uint8"),
        (vary, "strength", (1.1, -0.1, NAN, "1"), r"a number in \[0, 1\]"),
        (vary, "stpes", (2,), "did you mean 'steps'"),
        ((vary, find, fill, between), "model", ("x", None), "must be a DiffusionModel"),
        (fill, "mask", (ONES[1:], FLOATS[:1], None), r"must be \(8, 8\)"),
        (fill, "mask", (ONES * 255, ONES * np.nan, ONES.astype(str)), "1 where a pixel is kept"),
        (between, "first second", NO_SHAPE, r"must be \(n, 8, 8, 1\)"),
        (between, "first", (FLOATS[:1],), "but second"),
        (between, "shares", ((0, 2.0), NAN, "x", True), r"a number in \[0, 1\]"),
        (between, "shares", ((),), "give at least one"),
        (between, "mix", ("larp",), "did you mean 'lerp'"),
        (mixes, "share", (2, -0.1, NAN, None), r"a number in \[0, 1\]"),
        (mixes, "first second", (POINTS[:0], 3.0, "x"), r"must be \(n, ...\)"),
        (mixes, "first second", no_numbers(POINTS), FINITE),
        (mixes, "first", (POINTS[:1],), "but second"),
    ],
    "pictures": [
        (pixels.to_uint8, "images", no_numbers(POINTS)[:4], "(holds NaN|.* give uint8)"),
        (grid, "images", (FLOATS[0], FLOATS[:0]), r"must be \(n, height, width, channels\)"),
        (grid, "columns", (0, "2"), "at least 1"),
        (grid, "padding", (-1, None), "at least 0"),
        (strip, "trajectory", (None, FLOATS), "must be a Trajectory"),
        (strip, "num_frames", (0, 1.5), "at least 1"),
        (save, "image", (FLOATS, FLOATS[0].repeat(2, -1)), r"must be \(height, width, 1 or 3\)"),
        (save, "image", (None, FLOATS[0] > 0), "give uint8, or float"),
        (save, "path", (None, 3, ""), "must be a path"),
        (save, "path", ("a", "a.xyz"), "must end in a format of Pillow"),
        (gif, "frames", ([], None, 3), "(give at least one|must be) image"),
        (gif, "frames", ([FLOATS[0], FLOATS[0, 1:]],), "different shapes"),
        (gif, "frames", ([FLOATS[0], FLOATS],), r"1. has shape .* \(height, width, 1 or 3\)"),
        (gif, "duration_ms", (0, None, 10**9, 50.0, [0] * 8), "from 10 to 655350"),
        (gif, "duration_ms", ([10],), "has 1 entries for 8 frames"),
        ((save, gif), "scale", INT, "at least 1"),
    ],
    "metrics": [
        ((frechet, kid), "features_a features_b", NO_ROWS, r"must be \(n, d\)"),
        ((frechet, kid), "features_a features_b", no_numbers(FEATURES), FINITE),
        ((frechet, kid), "features_a features_b", ([[1, 2], [3]],), "lists of different lengths"),
        ((frechet, kid), "features_a", (FEATURES[:, :2],), "has 2 columns and features_b 3"),
        (kid, "block_size", (0,), "at least 1"),
        (moments, "mean_a", (None, EYE, []), r"must be \(n,\)"),
        (moments, "mean_b", (np.zeros(3), EYE), r"must be \(2,\)"),
        (moments, "mean_a mean_b", no_numbers(ZERO), FINITE),
        (moments, "covariance_a covariance_b", (np.eye(3), ZERO, None), r"must be \(2, 2\)"),
        (moments, "covariance_a covariance_b", (-EYE, np.diag([1, -1])), "the eigenvalue -1"),
        (moments, "covariance_a covariance_b", (SLANTED,), "is not symmetric"),
        (moments, "covariance_a covariance_b", no_numbers(EYE), FINITE),
        (bias, "count", (1, 2.5), "at least 2"),
        ((extract, evaluate), "extractor", (None, "lenet"), "must be a function of images"),
        (extract, "images", NO_SHAPE, r"must be \(n, height, width, channels\)"),
        ((extract, generate, find, evaluate), "batch_size", (0, 1.5), "at least 1"),
        (lenet, "images", (PHOTOS[:, :15],), "must be at least 16 x 16"),
        (lenet, "labels", (np.zeros(8, int),), "at least two classes"),
        (lenet, "labels", (np.arange(7),), "must be one label, or 8 of them"),
        (lenet, "labels", (np.arange(8) + HUGE, np.arange(8) - 1), r"must lie in \[0, "),
        (lenet, "seed", (-1, None), "at least 0"),
        ((nearest, neighbours), "training_images", (FLOATS[:, 1:],), r"must be \(n, 8, 8, 1\)"),
        (nearest, "k", (0, 1.0), "at least 1"),
        (nearest, "features", ("lenet",), "must be an extractor"),
        (neighbours, "indices", ([0] * 8, [[0]], [[0.0]] * 8), r"must be ints \(8, k\)"),
        (neighbours, "indices", ([[4]] * 8, [[-1]] * 8, [[HUGE]] * 8), r"lie in \[0, 3\]"),
        (evaluate, "images num_images", (FLOATS[:2], 2), "(at least 3|must be)"),
        (evaluate, "directory", (3,), "must be a path"),
    ],
    "optimal": [
        (exact, "data", (POINTS[:0], POINTS[0], None), r"must be \(n, n, ...\)"),
        (exact, "data", (POINTS.astype(int),), "must be float, or uint8 images"),
        (exact, "data", no_numbers(POINTS), FINITE),
        (exact, "diffusion", (None,), "must be a GaussianDiffusion"),
        (exact, "labels", ([0, 1], [0.0, 1.0, 1.0]), "must (be one label, or 3|hold ints)"),
        (exact, "labels", ([0, 2, 2],), "must hold each of 0 to 2"),
        (exact, "labels", ([HUGE] * 3, [0, 0, -1]), r"must lie in \[0, "),
        (call, "label", ([3] * 3, -1, [HUGE] * 3), r"must lie in \[0, 2\]"),
        (call, "x_t", (np.zeros((1, 3)),), r"has shape \(1, 3\), but data \(2,\)"),
    ],
}


@pytest.mark.parametrize("subject", ROWS)
def test_a_wrong_call_is_answered_with_the_argument_and_what_would_work(subject):
    found = []
    for functions, arguments, values, words in ROWS[subject]:
        functions = [functions] if callable(functions) else functions
        for function, argument, value in itertools.product(functions, arguments.split(), values):
            row = f"{argument}={value!r:.60}"
            try:
                function(**{argument: value})
            except (TypeError, ValueError) as error:
                if not re.match(rf"{argument}\b.*{words}", str(error), re.DOTALL):
                    found.append(f"{row} is not answered with {words!r}: {error}")
            else:
                found.append(f"{row} is not refused")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kd.GaussianDiffusion(betas=[0.5, 1.0]), "prediction='noise' is not .*'velocity'"),
        (lambda: kd.GaussianDiffusion(zero_terminal_snr=True), "prediction='noise' .*_snr=True"),
        (lambda: unet(widths=(2, 4), norm_groups=1), r"widths\[0\]=2 must be even and at least 4"),
        (lambda: unet(num_heads=2, head_dim=4), "num_heads=2 and head_dim=4 exclude each other"),
        (lambda: unet(widhts=(8,)), "unexpected keyword argument 'widhts'"),
        (lambda: kd.MLP(widht=8), "unexpected keyword argument 'widht'"),
        (lambda: named_model().generate(0, labels=0), "num_images=0 must be at least 1"),
        (lambda: nearest(k=9), "training_images has .*, so k=9 is more than there are"),
        (lambda: metrics.memorised_share(FLOATS, FLOATS[:1]), "training_images .* k=2 is more"),
        (lambda: extract(extractor=lambda x: x), "the extractor's output has shape"),
        (lambda: extract(extractor=lambda x: None), "the extractor's output has shape"),
        (lambda: lenet(labels=0), "labels are all 0"),
        (lambda: kd.OptimalDenoiser(POINTS, DIFFUSION)(POINTS, [0] * 3, 0), "label was given"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
