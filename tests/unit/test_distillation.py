"""Distillation by moment matching: its formulas, what it trains, and that few steps get better."""

import numpy as np
import pytest
from keras import ops
from tools import IMAGES, LABELS, make_model, to_numpy

from keras_ddpm import (
    MLP,
    Colouring,
    DiffusionModel,
    FusedAdam,
    GaussianDiffusion,
    UNet,
    distill,
    load_diffusion_model,
)
from keras_ddpm.model.distillation import MomentMatching

CENTRES = np.array([[-0.8, -0.8], [-0.8, 0.8], [0.8, -0.8], [0.8, 0.8]], "float32")


def velocity_model(**kwargs):
    diffusion = GaussianDiffusion(50, "cosine", prediction="velocity")
    model = make_model(3, diffusion=diffusion, **kwargs)
    model.fit(IMAGES, LABELS, batch_size=4, verbose=0)
    return model


def fitted_student(model, **options):
    student = distill(model, steps=3, **options)
    student.compile(FusedAdam(1e-3, beta_1=0.0))
    student.fit(IMAGES, LABELS, batch_size=4, epochs=2, verbose=0)
    return student


def test_each_target_is_half_the_gradient_of_the_paper_away():
    student = fitted_student(velocity_model())
    seen = {}

    def watch(name, network):
        def run(inputs):
            seen[name] = inputs, network(inputs)
            return seen[name][1]

        return run

    for name in ("network", "critic", "teacher"):
        run = watch(name, getattr(student, f"_run_{name}"))
        setattr(student, f"_run_{name}", run)
    batch = student.prepare_batch((IMAGES[:4], LABELS[:4]))
    _, target, output = student.denoising_loss(batch, training=True)

    def start(name):
        (x, t, _), found = seen[name]
        return to_numpy(student.diffusion.predict_start(x, t, found))

    x_0, critic, teacher = start("network"), start("critic"), start("teacher")
    np.testing.assert_array_equal(seen["critic"][0][0], seen["teacher"][0][0])
    difference = 2 * (to_numpy(output) - to_numpy(target))
    expected = np.concatenate([critic - teacher, (critic - x_0) + (critic - teacher)])
    np.testing.assert_allclose(difference, expected, atol=1e-5)
    t, s = (to_numpy(seen[name][0][1]) for name in ("network", "critic"))
    assert (s <= t).all() and (t - s <= np.ceil(50 / 3)).all() and (t > s).any()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_the_next_state_is_drawn_from_the_posterior(schedule):
    """Ho et al. (2020), eq. 7, in float64, with beta_t of the whole step from t to s."""
    diffusion = GaussianDiffusion(50, schedule, prediction="velocity")
    student = MomentMatching(MLP(width=8, depth=1), diffusion, steps=5)
    rng = np.random.default_rng(0)
    start, x_t, noise = rng.normal(size=(3, 6, 2))
    s, t = np.array([0, 3, 10, 30, 48, 20]), np.array([9, 4, 20, 40, 49, 20])
    bars = np.float64(diffusion.alphas_cumprod)
    bar_s, bar_t = bars[s, None], bars[t, None]
    beta = 1 - bar_t / bar_s
    mean = np.sqrt(bar_s) * beta * start + np.sqrt(1 - beta) * (1 - bar_s) * x_t
    expected = mean / (1 - bar_t) + np.sqrt((1 - bar_s) / (1 - bar_t) * beta) * noise
    tensors = [ops.convert_to_tensor(x, "float32") for x in (start, x_t, noise)]
    found = student.draw_next(tensors[0], tensors[1], t, s, tensors[2])
    np.testing.assert_allclose(to_numpy(found), expected, atol=2e-5)
    np.testing.assert_allclose(to_numpy(found)[-1], x_t[-1], atol=1e-6)  # s = t


def test_two_steps_of_the_student_come_closer_to_the_points():
    diffusion = GaussianDiffusion(100, "cosine", prediction="velocity")
    model = DiffusionModel(MLP(width=32, depth=2), diffusion, ema_decay=0.9, seed=0)
    points = np.tile(CENTRES, (64, 1))
    model.compile(FusedAdam(1e-2))
    model.fit(points, batch_size=128, epochs=60, verbose=0)
    student = distill(model, steps=2, seed=0)
    student.compile(FusedAdam(2e-3, beta_1=0.0))
    student.fit(points, batch_size=128, epochs=60, verbose=0)

    def error(model, steps):
        x = model.generate(256, sampler="ddpm", steps=steps, seed=1)
        return np.linalg.norm(x[:, None] - CENTRES, axis=-1).min(axis=1).mean()

    assert error(student, 2) < error(model, 2) / 2


def test_the_teacher_stays_and_a_saved_student_goes_on_training(tmp_path):
    model = velocity_model()
    student = fitted_student(model)
    assert student.generate(2, labels=[0, 1], seed=0).shape == (2, 8, 8, 1)
    for found, expected in zip(
        student.teacher.get_weights(), model.ema_network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    for network in (student.network, student.critic):
        old = model.ema_network.get_weights()
        assert not all(map(np.array_equal, network.get_weights(), old))
    student.save(tmp_path / "student.keras")
    loaded = load_diffusion_model(tmp_path / "student.keras")
    assert type(loaded) is MomentMatching and loaded.steps == 3
    losses = [
        one.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0).history["loss"]
        for one in (student, loaded)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name in ("network", "ema_network", "critic", "teacher"):
        weights = [getattr(one, name).get_weights() for one in (student, loaded)]
        for found, expected in zip(*weights, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_distilled_model_is_an_ordinary_one(tmp_path):
    student = fitted_student(velocity_model())
    distilled = student.distilled()
    assert type(distilled) is DiffusionModel
    expected = student.generate(3, labels=[0, 1, 0], seed=3)
    distilled.save_to_preset(tmp_path / "preset", dtype="float32")
    for one in (distilled, DiffusionModel.from_preset(tmp_path / "preset")):
        assert one.sampler.steps == 3
        found = one.generate(3, labels=[0, 1, 0], seed=3)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_conditions_reach_all_networks():
    network = UNet(8, widths=(8,), has_attention=(False,), condition_channels=1)
    diffusion = GaussianDiffusion(50, "cosine", prediction="velocity")
    model = DiffusionModel(network, diffusion, conditioning=Colouring(), seed=0)
    model.compile(FusedAdam(1e-3))
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), "uint8")
    model.fit(images, batch_size=4, verbose=0)
    student = distill(model, steps=2)
    student.compile(FusedAdam(1e-3, beta_1=0.0))
    student.fit(images, batch_size=4, verbose=0)
    found = student.generate(2, condition=np.zeros((2, 8, 8, 1), "float32"), seed=0)
    assert np.isfinite(found).all() and found.shape == (2, 8, 8, 3)


def test_what_cannot_be_distilled_is_refused():
    trained = velocity_model()
    with pytest.raises(ValueError, match="steps=51"):
        distill(trained, steps=51)
    with pytest.raises(ValueError, match="was not trained"):
        distill(make_model(3))
    noise = make_model(3)
    noise.updates.assign(1)
    with pytest.raises(ValueError, match="prediction='velocity'"):
        distill(noise)
    with pytest.raises(TypeError, match="model="):
        distill("mnist_28")
