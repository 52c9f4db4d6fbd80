"""The course: each notebook runs with small numbers, and is kept in full and in one form."""

import re

import nbclient
import nbformat
import pytest
from tools import ROOT, make_model, tiny_network

from keras_ddpm import DiffusionModel
from keras_ddpm.data.drawn_flowers import CLASS_NAMES

# Appended to the cell that is tagged "parameters". In the folder where a notebook runs there are
# models of a moment: tiny.keras of drawn flowers, and tiny_species.keras of the classes of
# flowers_32, both of 16x16 pixels.
SMALL = {
    "0_first_flowers": """
MODEL, STEPS, FRAMES = "tiny_species.keras", 3, 2""",
    "1_noise": """
NUM_VALUES, MODEL, PAINTING_STEPS = 2000, "tiny_species.keras", 2""",
    "2_the_loss": """
NUM_SAMPLES, NUM_PATHS, STEP_COUNTS = 5000, 2000, (10, 100)
MODEL, NUM_IMAGES, NUM_TIMES = "tiny.keras", 4, 4""",
    "3_two_algorithms": """
TIMESTEPS, NUM_POINTS, BATCH_SIZE, EPOCHS, COMPARED_EPOCHS = 40, 512, 128, 3, 2
NUM_SAMPLES, NUM_COMPARED, DDIM_STEPS, FLOOR_SAMPLES = 48, 8, 8, 256""",
    "4_the_u_net": """
WIDTHS, NUM_IMAGES, NUM_VALIDATION, BATCH_SIZE, EPOCHS, STEPS = (8, 8), 32, 16, 16, 1, 2
VARIANTS = ("without skips",)""",
    "5_training": """
PRESET, NUM_IMAGES, WIDTHS, EPOCHS, BATCH_SIZE, STEPS = "tiny.keras", 192, (8,), 1, 16, 2
NUM_SAMPLES, LENET_IMAGES, OWN_IMAGES = 24, 96, 3""",
    "6_samplers": """
MODEL, STEPS, MORE_STEPS, REFERENCE_STEPS = "tiny.keras", (2, 3), (2, 4), 6
FEW_STEPS, SOME_STEPS = 4, 4""",
    "7_guidance_and_edits": """
MODEL, PHOTO_MODEL, STEPS = "tiny.keras", "tiny_species.keras", 4
NUM_DRAWINGS, NUM_SAMPLES = 96, 48""",
    "8_evaluation": """
MODEL, NUM_TRAINING, NUM_SAMPLES = "tiny.keras", 128, 48
SIZES, STEPS, LENET_SEEDS = (24, 48), (2, 3), (0, 1)""",
}
SLOW = {"3_two_algorithms", "4_the_u_net", "5_training", "7_guidance_and_edits", "8_evaluation"}
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
ANSWER = re.compile(r"<details>\s*<summary>Answer</summary>\n\n(.*?)\n\n</details>", re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|mnt|opt|root|tmp|usr|Users|var|work)/|[A-Z]:\\")
pytestmark = pytest.mark.once


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def parameters(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    return cell


def answers(cell):
    """The folded answers in a cell, each as a list of its blocks of Python."""
    texts = ANSWER.findall(cell.source) if cell.cell_type == "markdown" else ()
    return [PYTHON.findall(text) for text in texts]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the models that `SMALL` names."""
    folder = tmp_path_factory.mktemp("models")
    species = DiffusionModel.from_preset("flowers_32").class_names
    for name, names in (("tiny", CLASS_NAMES), ("tiny_species", species)):
        model = make_model(network=tiny_network(16, 3, len(names)), class_names=names)
        model.save(folder / f"{name}.keras")
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SMALL]
)
def test_notebook_and_its_answers_run(name, models, tmp_path):
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    notebook = read(name)
    parameters(notebook).source += SMALL[name]
    cells = []
    for cell in notebook.cells:
        blocks = sum(answers(cell), [])
        cells += [cell, *map(nbformat.v4.new_code_cell, blocks)]
    notebook.cells, here = cells, {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=300, resources=here).execute()


@pytest.mark.parametrize("name", SMALL)
def test_notebook_has_the_form_of_the_course(name):
    notebook = read(name)
    assert parameters(notebook) is next(c for c in notebook.cells if c.cell_type == "code")
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "**Predict first.**" in text
    assert re.search(r"^\| *formula *\| *where *\| *method *\|$", text, re.MULTILINE)
    found = sum(map(answers, notebook.cells), [])
    assert len(found) == text.count("<details>") == 3, "each exercise has its folded answer"
    assert all(found), "each answer has code"


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_kept_with_its_outputs(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [kind for o in outputs for kind in o.get("data", {}) if kind.startswith("image/")]
    assert len(pictures) >= 3
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
        texts = [text for text in texts if len(text) < 10_000]  # no pictures
        assert not any(map(MACHINE_PATH.search, texts)), "a path of the machine that made it"


def test_each_notebook_is_run():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == SMALL.keys()
