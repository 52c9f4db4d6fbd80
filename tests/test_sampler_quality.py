"""The benchmark of sample quality: as a command, killed and resumed, and its standard errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_network

from keras_ddpm import DiffusionModel, GaussianDiffusion

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
TINY = ["--num_images", "40", "--num_curve", "40", "--chunk_size", "20", "--num_drawings", "48"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model as a preset, and as a file another one, of another data set."""
    folder = tmp_path_factory.mktemp("models")
    for name, classes in (("flowers", 24), ("others", 10)):
        diffusion = GaussianDiffusion(5, "cosine", prediction="velocity")
        network = tiny_network(16, channels=3, num_classes=classes)
        model = DiffusionModel(network, diffusion, seed=0)
        model.compile()
        model.save(folder / f"{name}.keras")
        model.save_to_preset(folder / name)
    return folder / "flowers"


def start(model, output, *options):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    script = ROOT / "benchmarks" / "sampler_quality.py"
    return subprocess.Popen(
        [sys.executable, str(script), str(model), "--output", str(output), *TINY, *options],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return stdout


def results_of(output):
    """results.json without the times."""
    results = json.loads((output / "results.json").read_text())
    for part in ("headline", "curve", "guidance"):
        for row in results[part]:
            assert row.pop("seconds_an_image") > 0
    return results


def test_killed_resumed_and_repaired(tmp_path, model):
    process = start(model, tmp_path, "--part", "all")
    assert process.stdout.readline().startswith("[1/")
    process.kill()  # after its first chunk, as a power cut would
    process.communicate()
    chunks = sorted(tmp_path.glob("samples_*/*/[0-9]*.npz"))
    first = chunks[0]
    made = first.stat().st_mtime_ns

    stdout = finish(start(model, tmp_path, "--part", "all"))
    assert first.stat().st_mtime_ns == made
    results = results_of(tmp_path)
    assert "| ddpm |" in stdout and "χ²" in stdout
    headline = results["headline"]
    assert [row["sampler"] for row in headline] == ["ddpm", "ddim", "heun", *4 * ["dpm_solver++"]]
    assert [row["evaluations"] for row in headline] == [5, 5, 9, 5, 5, 5, 5]
    assert [(row["spacing"], row["eta"]) for row in headline[3:]] == [
        ("trailing", 0),
        ("trailing", 1),
        ("logsnr", 0),
        ("logsnr", 1),
    ]
    assert [row["guidance"] for row in results["guidance"]] == 3 * [1, 2, 4, 1]
    assert len(results["curve"]) == 4 * 5 + 3
    names = {path.parent.name for path in tmp_path.glob("samples_*/*/[0-9]*.npz")}
    assert {path.stem for path in (tmp_path / "grids").glob("*.png")} == {*names, "drawings"}
    assert (tmp_path / "quality.png").stat().st_size > 10_000

    # A lost chunk is made again as it was; without it its row is left out, not cut short.
    before = np.load(first)
    first.unlink()
    finish(start(model, tmp_path, "--part", "report"))
    assert len(results_of(tmp_path)["curve"]) == 4 * 5 + 2
    finish(start(model, tmp_path, "--part", "all"))
    np.testing.assert_array_equal(np.load(first)["images"], before["images"])
    assert results_of(tmp_path) == results


def test_a_claim_belongs_to_one_process(tmp_path, monkeypatch):
    """What another process makes is left to it, and taken over once that has died."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from kept_samples import Samples

    hold = (
        "import sys; from pathlib import Path; from kept_samples import Samples\n"
        "with Samples(Path(sys.argv[1]), 20).claim('a') as mine: print(mine, flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "samples")],
        cwd=ROOT / "benchmarks",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "True\n"
    samples = Samples(tmp_path / "samples", 20)
    with samples.claim("a") as mine, samples.claim("b") as another:
        assert (mine, another) == (False, True)
    other.kill()
    other.communicate()
    with samples.claim("a") as mine:
        assert mine


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nowhere", [], "there is no file"),
        ("others", [], "has 10 classes, but the embedded set 24"),
        ("flowers", ["--chunk_size", "30"], "--num_images 40 must be a multiple"),
        ("flowers", ["--num_drawings", "39"], "--num_drawings must be at least 40"),
        ("flowers", ["--threads", "-1"], "--threads: must be an int of at least 1"),
        ("flowers", ["--part", "tail"], "invalid choice: 'tail'"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, model, name, options, message):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sampler_quality

    output = tmp_path / "out"
    path = model.with_name(f"{name}.keras")
    monkeypatch.setattr(sys, "argv", ["", str(path), "--output", str(output), *TINY, *options])
    with pytest.raises(SystemExit) as exit:
        sampler_quality.main()
    assert exit.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()


def test_standard_errors_are_those_of_repetition(monkeypatch):
    """The spread over 100 repetitions, of a distance and of a difference of two."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from quality_report import Distance, compare

    rng = np.random.default_rng(0)
    found, differences = [], []
    for _ in range(100):
        distance = Distance(lambda x: x, rng.normal(size=(400, 3)))
        x = rng.normal(size=(200, 3))
        near, far = distance(x + 0.5), distance(1.2 * x + [0.8, 0.4, 0.4])
        found.append((far["frechet"], far["standard_error"]))
        differences.append(compare(far, near))
    for values, errors in (np.transpose(found), np.transpose(differences)):
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_class_shares(monkeypatch):
    """Drawings agree with drawings; a class too many does not."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from quality_report import class_shares, read_back

    from keras_ddpm.data import describe_flowers, draw_flowers

    (drawings, labels), (fresh, _) = (draw_flowers(480, image_size=16, seed=s) for s in (1, 2))
    assert read_back(drawings, labels)["label"] > 0.95
    assert read_back(drawings, (labels + 4) % 24)["colour"] == 0
    read, read_fresh = (describe_flowers(x)[0] for x in (drawings, fresh))
    agreeing = class_shares(read_fresh, read)
    assert agreeing["chi_square"] < agreeing["degrees_of_freedom"]  # balanced: no chance in it
    red = draw_flowers(120, image_size=16, labels=np.zeros(120, int))[0]
    skewed = class_shares(np.append(read_fresh, describe_flowers(red)[0]), read)
    assert skewed["chi_square"] > 60
    assert sum(skewed["of_petals"].values()) == pytest.approx(1 - skewed["no_flower"])
    assert skewed["of_petals"][4] == pytest.approx(240 / 600, abs=0.02)
    assert skewed["largest_deviation_class"] == "red 4-petalled"
    assert skewed["largest_deviation"] == pytest.approx(140 / 600 - 20 / 480, abs=0.01)
