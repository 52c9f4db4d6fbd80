"""Distillation by moment matching: its formulas, what it trains, and that few steps get better."""

import keras
import numpy as np
import pytest
from keras import ops
from tools import IMAGES, LABELS, make_model, to_numpy

from keras_ddpm import (
    MLP,
    DiffusionModel,
    FusedAdam,
    GaussianDiffusion,
    distill,
    load_diffusion_model,
)

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
