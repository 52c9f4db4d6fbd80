"""Each notebook runs from top to bottom, with small numbers in its parameters cell."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = {
    "flowers": """
IMAGE_SIZE, NUM_IMAGES, WIDTHS, EPOCHS, BATCH_SIZE, SAMPLING_STEPS = 24, 64, (8, 16), 1, 16, 8
""",
    "samplers": """
STEPS, MORE_STEPS, REFERENCE_STEPS, FEW_STEPS, SOME_STEPS, COUNTED = (2, 5), (2, 4), 20, 4, 6, 24
""",
    "evaluation": """
NUM_TRAINING, NUM_SAMPLES, SIZES, STEPS, LENET_SEEDS = 600, 200, (100, 200), (2, 3), (0, 1)
NUM_CODED, CODED_TIMESTEPS = 4, 3
""",
}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


@pytest.mark.once
@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(name, tmp_path):
    notebook = read(name)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    parameters.source += SMALL[name]
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    if name == "flowers":
        assert (tmp_path / "runs/notebook/flowers.keras").exists()


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS.glob("*.ipynb")])
def test_notebook_is_kept_with_the_pictures_of_a_run(name):
    outputs = [o for cell in read(name).cells for o in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    assert name in SMALL, "every notebook is executed by test_notebook_runs"
