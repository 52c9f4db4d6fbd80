"""The benchmark of speed: a table as a command makes it, and what becomes of a case that fails."""

import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "speed.py"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import speed

    return speed


def test_a_table(tmp_path):
    """Training on arrays, on a folder of JPEGs and on tf.data, and batches without training."""
    options = ["--networks", "tiny", "--backends", "tensorflow", "--rounds", "3"]
    command = [sys.executable, SCRIPT, "input", *options, "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "speed.json").read_text())
    (table,) = results["tables"]
    arrays, folder, tuned, batch = table["rows"]
    assert [len(row["rounds"]) for row in table["rows"]] == [3, 3, 3, 3]
    assert tuned["options"]["tuned"] and tuned["references"] == [arrays["name"]]
    pairs = zip(arrays["rounds"], folder["rounds"])
    assert folder["ratios"] == {arrays["name"]: statistics.median(a / b for a, b in pairs)}
    assert arrays["seconds"] == statistics.median(arrays["rounds"]) > 10 * batch["seconds"]
    assert arrays["parameters"] > 1000 and arrays["first_step"] > arrays["seconds"]
    assert folder["images_per_second_loaded"] > 10
    assert all(50 < row["peak_megabytes"] < 20000 for row in table["rows"])
    text = (tmp_path / "speed.md").read_text()
    assert text in done.stdout and "speed.py input --networks tiny" in text
    assert f"{folder['ratios'][arrays['name']]:.2f} × training on arrays" in text


def test_a_case_that_fails_is_reported_and_the_others_go_on(speed, tmp_path, monkeypatch):
    import speed_tables

    def tables(args):
        cases = [
            speed_tables.Case(
                module, "speed_ours", "importing", {"module": module}, "numpy", ("json",)
            )
            for module in ("json", "no_such_module")
        ]
        yield speed_tables.Table(
            "Import", [*cases, cases[0]._replace(name="no case", function="nothing")]
        )

    monkeypatch.setitem(speed.GROUPS, "start", tables)
    arguments = ["speed.py", "start", "--rounds", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit:
        speed.main()
    assert exit.value.code == 1
    (table,) = json.loads((tmp_path / "speed.json").read_text())["tables"]
    good, *bad = table["rows"]
    assert len(good["rounds"]) == 2 and "failure" not in good and good["ratios"] == {"json": 1}
    assert all("failure" in row and not row["ratios"] for row in bad)
    text = (tmp_path / "speed.md").read_text()
    assert "| no_such_module | failed: " in text and "no_such_module" in bad[0]["failure"]
    assert "speed_ours" in bad[1]["failure"] and "nothing" in bad[1]["failure"]


@pytest.mark.parametrize(
    "options, expected",
    [
        (["trainings"], "GROUP must be one of training, sampling, input, start, memory, remat"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--batch_size", "-1"], "--batch_size must be at least 1, got -1"),
        (["--photographs", "nowhere"], "--photographs must be a folder, got 'nowhere'"),
        (["--backends", "numpy"], "invalid choice: 'numpy'"),
    ],
)
def test_wrong_options(speed, monkeypatch, capsys, options, expected):
    monkeypatch.setattr(sys, "argv", ["speed.py", *options])
    with pytest.raises(SystemExit):
        speed.parse_args()
    assert expected in capsys.readouterr().err


def test_ceilings_are_measured(speed):
    """Each counts its operations, and then its seconds."""
    import speed_ceilings
    from speed_tables import NETWORKS

    big, small = (
        speed_ceilings.convolutions({**NETWORKS["tiny"], "image_size": size}, "float32", 8)
        for size in (64, 16)
    )
    assert next(big)["flops"] == 16 * next(small)["flops"] > 1e6
    assert next(big) > 0 and next(small) > 0

    big, small = (speed_ceilings.matrix_product("mixed_bfloat16", size) for size in (1024, 64))
    assert (next(big)["flops"], next(small)["flops"]) == (2**31, 2**19)
    assert next(big) > 0 and next(small) > 0


TENSORS = {
    "tensorflow": ("tensorflow", "convert_to_tensor"),
    "jax": ("jax.numpy", "asarray"),
    "torch": ("torch", "from_numpy"),
}


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("jax", "torch")]
)
def test_convolutions_are_the_same_work_on_every_backend(speed, backend):
    import speed_ceilings

    rng, found = np.random.default_rng(0), {}
    shapes = [((2, 8, 8, 3), (3, 3, 3, 5)), ((2, 4, 4, 8), (3, 3, 8, 4))]
    cases = [[rng.standard_normal(shape, "float32") for shape in pair] for pair in shapes]
    for name in ("tensorflow", backend):
        module, function = TENSORS[name]
        tensor = getattr(importlib.import_module(module), function)
        found[name] = speed_ceilings.PROGRAMS[name]([(*map(tensor, c), 1) for c in cases])()
    assert found[backend] == pytest.approx(found["tensorflow"], rel=1e-4)
    assert abs(found[backend]) > 1


def test_huge_pages_are_asked_for_in_every_process(speed, tmp_path, monkeypatch):
    def tables(args):
        import speed_tables

        module = "os; assert os.environ['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=1'"
        case = speed_tables.Case("a case", "speed_ours", "importing", {"module": module}, "numpy")
        yield speed_tables.Table("Import", [case])

    monkeypatch.setitem(speed.GROUPS, "start", tables)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    arguments = ["speed.py", "start", "--rounds", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--huge_pages"])
    speed.main()
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        speed.main()


def test_all_tables_name_cases_that_exist(speed, monkeypatch, tmp_path):
    """Every reference is a case of the same table, and every case a generator of its file."""
    monkeypatch.setattr(sys, "argv", ["speed.py"])
    args = speed.parse_args()
    args.scratch = tmp_path
    tables = [table for group in args.groups for table in speed.GROUPS[group](args)]
    assert len({table.title for table in tables}) == len(tables)
    for table in tables:
        names = [case.name for case in table.cases]
        assert len(set(names)) == len(names)
        for case in table.cases:
            assert set(case.references) <= {*names} - {case.name}
            assert f"def {case.function}(" in (SCRIPT.parent / f"{case.module}.py").read_text()
