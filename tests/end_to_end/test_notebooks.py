"""The notebooks run from top to bottom with small numbers, and are kept with their pictures."""

import nbclient
import nbformat
import pytest
from tools import ROOT, make_model, tiny_network

from keras_ddpm.data.drawn_flowers import CLASS_NAMES

# Appended to the cell that is tagged "parameters".
SMALL = {
    "flowers": """
IMAGE_SIZE, NUM_IMAGES, WIDTHS, EPOCHS, BATCH_SIZE, SAMPLING_STEPS = 16, 64, (8,), 1, 16, 2""",
    "samplers": """
MODEL, NUM_DRAWINGS, NUM_SAMPLES = "tiny.keras", 96, 4
STEPS, MORE_STEPS, REFERENCE_STEPS, FEW_STEPS, SOME_STEPS = (2, 3), (2, 4), 6, 4, 4""",
    "evaluation": """
MODEL, NUM_TRAINING, NUM_SAMPLES = "tiny.keras", 128, 48
SIZES, STEPS, LENET_SEEDS = (24, 48), (2, 3), (0, 1)""",
}
pytestmark = pytest.mark.once


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(name, tmp_path):
    model = make_model(network=tiny_network(16, 3, 24), class_names=CLASS_NAMES)
    model.save(tmp_path / "tiny.keras")
    notebook, here = read(name), {"metadata": {"path": tmp_path}}
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    parameters.source += SMALL[name]
    nbclient.NotebookClient(notebook, timeout=300, resources=here).execute()
    assert (tmp_path / "runs/notebook/flowers.keras").is_file() == (name == "flowers")


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")])
def test_notebook_is_kept_with_its_pictures(name):
    outputs = [output for cell in read(name).cells for output in cell.get("outputs", ())]
    assert all(output.output_type != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert name in SMALL, "every notebook is run"
