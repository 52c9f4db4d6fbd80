"""The folder `benchmarks`: the judge of drawn flowers, and short runs of the other scripts."""

import json
from importlib.util import find_spec

import best_timesteps
import numpy as np
import pytest
import sampler_quality
import time_to_quality
from read_flowers import read_flowers
from tools import ROOT, make_model, run_python, tiny_network

from keras_ddpm import GaussianDiffusion
from keras_ddpm.data import draw_flowers

pytestmark = pytest.mark.once


def test_colour_and_petals_are_read_back_and_noise_is_no_flower():
    images, labels = draw_flowers(480, image_size=32, seed=5)
    rng = np.random.default_rng(0)
    noisy = np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype("uint8")
    for some in (images, noisy, images / np.float32(127.5) - 1):
        assert np.mean(read_flowers(some)[0] == labels) >= 0.97
    found, confidence = read_flowers(rng.integers(0, 256, images.shape, "uint8"))
    assert (found == -1).all() and (confidence == 0).all()


@pytest.mark.slow
def test_speed_is_measured(tmp_path):
    options = "training --networks tiny --policies float32 --backends tensorflow --rounds 1"
    options = [*options.split(), "--matrix_size", 64, "--output", tmp_path]
    done = run_python(ROOT / "benchmarks" / "speed.py", *options, check=False)
    ours, theirs, product = json.loads((tmp_path / "speed.json").read_text())["tables"][0]["rows"]
    assert ours["seconds"] > 0 and ours["flops"] > 0 and product["seconds"] > 0, done.stdout
    is_missing = not (find_spec("diffusers") and find_spec("torch"))
    assert bool(theirs["failure"]) == is_missing and done.returncode == is_missing, done.stdout


def test_samplers_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler_quality, "BLOCKS", 3)
    monkeypatch.setitem(sampler_quality.PARTS, "headline", [("ddim", "trailing", 2, 0.0, 1.0)])
    model = make_model(network=tiny_network(16, 3, num_classes=24))
    results = sampler_quality.measure(model, "headline", 80, 160, tmp_path)
    assert results[1]["frechet"] > 3 * results[0]["frechet"] > 0  # of noise, of fresh drawings
    assert "| ddim | trailing | 2 |" in sampler_quality.table(results)


@pytest.mark.slow
def test_packages_are_compared_after_the_same_time(tmp_path, monkeypatch):
    """A run that is there is not run again, and the held-out images are closest."""
    few = {"drawn_flowers": ({"image_size": 32, "num_images": 128}, None, "embedded")}
    monkeypatch.setattr(time_to_quality, "SETS", few)
    has_peer = bool(find_spec("diffusers") and find_spec("torch"))
    contestants = ["keras_ddpm", *(["diffusers"] if has_peer else [])]
    options = [
        "--sets",
        "drawn_flowers",
        "--minutes",
        "0.02",
        "--seeds",
        "0",
        "--num_images",
        "100",
    ]
    options += ["--backend", "tensorflow", "--output", str(tmp_path), "--contestants", *contestants]
    monkeypatch.setattr("sys.argv", ["time_to_quality.py", *options])
    time_to_quality.main()
    results = json.loads((tmp_path / "quality.json").read_text())
    assert [run["contestant"] for run in results["runs"]] == contestants
    for run in results["runs"]:
        assert run["frechet"] > 2 * results["held_out"]["drawn_flowers"] > 0 and run["steps"] > 0
    assert "| keras_ddpm |" in (tmp_path / "quality.md").read_text()
    monkeypatch.setattr(time_to_quality, "run", None)
    time_to_quality.main()
    assert (tmp_path / "quality.png").stat().st_size > 10000


def test_timesteps_are_searched():
    """From a distance that is smallest at known timesteps."""
    search = best_timesteps.Search(None, None, None, 1, 0)
    best = np.array([999, 600, 250, 40])

    def distance(sampler):
        return np.abs(np.array(sampler.timesteps) - best).sum()

    search.distance = distance
    begin = best_timesteps.DPMSolverPlusPlus(timesteps=[999, 700, 400, 100], eta=0.7)
    found = search.refine(begin, rounds=20)
    assert distance(found) < distance(begin) / 4 and found.eta == 0.7
    plans = [sampler.plan(GaussianDiffusion()) for sampler in best_timesteps.curves(8, 1000)]
    assert all(len(plan) == 8 and plan[0] == 999 for plan in plans)
