"""The callback that measures samples: what it logs and draws, and that training goes on as ever."""

import numpy as np
import pytest
from PIL import Image
from tools import (
    IMAGES,
    assert_refused,
    assert_same_states,
    fit,
    make_model,
    resetting,
    shared_model,
    states,
)

from keras_ddpm.callbacks import CSVLog
from keras_ddpm.metrics import EvaluateSamples, extract, frechet_distance, kid
from keras_ddpm.metrics import callback as module
from keras_ddpm.metrics.nearest import nearest_grid, nearest_neighbours
from keras_ddpm.plotting import visible_scale


def halves(images):
    """Two features: the mean brightness of the left and of the right."""
    return images.reshape(len(images), 8, 2, 4).mean((1, 3), dtype="float64")


def evaluate_with(*epochs, **options):
    """Measures after these epochs, without any training between them."""
    options = {"extractor": halves, "images": IMAGES, "every": 1, "num_images": 6, **options}
    callback = EvaluateSamples(**options)
    callback.set_model(shared_model())
    callback.on_train_begin()
    for epoch in epochs:
        callback.on_epoch_end(epoch)


def test_distances_are_logged_neighbours_drawn_and_training_does_not_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHOWN", 4)
    reset, folder = resetting(make_model()), tmp_path / "new" / "pictures"
    sampling = {"sampler": "ddpm", "steps": 2, "seed": 5}
    evaluate = EvaluateSamples(halves, IMAGES, 2, num_images=6, directory=folder, **sampling)
    callbacks = [evaluate, CSVLog(tmp_path / "log.csv")]
    model = reset()
    fit(model, IMAGES, epochs=2, callbacks=callbacks)
    after = states(model)
    samples = model.generate(6, **sampling)
    features, data = extract(halves, samples), halves(IMAGES)
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    found = [log[name] for name in ("frechet", "kid", "kid_error")]
    expected = np.array([frechet_distance(features, data), *kid(features, data)])
    np.testing.assert_allclose(found, np.stack([expected * np.nan, expected], 1), rtol=1e-4)

    assert [path.name for path in folder.iterdir()] == ["nearest_0002.png"]
    grid = nearest_grid(samples[:4], IMAGES, nearest_neighbours(samples[:4], IMAGES)[0])
    with Image.open(folder / "nearest_0002.png") as picture:
        found = np.asarray(picture, "int32")
    scale = visible_scale(grid)
    assert np.abs(found[::scale, ::scale] - grid[..., 0]).max() <= 1

    model = reset()
    fit(model, IMAGES, epochs=2)
    assert_same_states(states(model), after)


@pytest.mark.once
def test_data_are_measured_once_and_thinned_for_kid(monkeypatch):
    calls, used = [], []

    def counted(images):
        calls.append(len(images))
        return halves(images)

    def spy(features, reference):
        used.append(reference)
        return kid(features, reference)

    monkeypatch.setattr(module, "kid", spy)
    monkeypatch.setattr(module, "MAX_KID_IMAGES", 4)
    evaluate_with(0, 1, extractor=counted, steps=1)
    assert calls == [8, 6, 6]
    np.testing.assert_array_equal(used, [halves(IMAGES[::2])] * 2)


@pytest.mark.once
def test_mistakes_are_found_before_the_first_step(tmp_path, monkeypatch):
    assert_refused(evaluate_with, TypeError, extractor=("lenet",), stpes=(3,))
    wrong = IMAGES[0], IMAGES[:2], IMAGES[:, 1:]
    assert_refused(evaluate_with, ValueError, images=wrong, num_images=(2,), steps=(51,))
    with pytest.warns(UserWarning, match="num_images: 3 samples of 3 features"):
        evaluate_with(extractor=lambda images: images[:, 0, :3, 0], num_images=3)
    with pytest.raises(ValueError, match="the extractor's output has shape"):
        evaluate_with(extractor=lambda images: images)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        evaluate_with(directory=tmp_path / "file")
    monkeypatch.setattr(module, "process", lambda: (0, 2))
    with pytest.raises(ValueError, match="measures in a single process"):
        evaluate_with()
