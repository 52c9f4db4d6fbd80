"""Every example of a docstring and every Python block of README and docs runs."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re

import keras
import numpy as np
import pytest
from keras import ops
from tools import (
    BACKEND,
    ROOT,
    TINY_RUN,
    command,
    make_model,
    run_command,
    tiny_network,
    to_options,
)

import keras_ddpm
from keras_ddpm import data, metrics

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(keras_ddpm.__path__, "keras_ddpm.")
    if not re.search(r"\.backend\.|\.presets\.|\.__main__$", module.name)
]
WIDE = "widths=(8, 16), has_attention=(False, True)"
SMALL = "widths=(8,), has_attention=(False,), num_res_blocks=1"
# What makes the blocks of a page small.
PAGES = {
    "README.md": {
        "plt.show()": "plt.savefig('flowers.png')",
        "image_size=32)": "image_size=32, num_images=40)",
        "(24, 48), (False, True), 1": "(8,), (False,), 1",
        "epochs=10": "epochs=1",
        'SampleImages("samples")': 'SampleImages("samples", steps=2)',
        "images = model.generate(16,": "images = model.generate(2,",
    },
    "docs/fine_tuning.md": {"200": "16", "* 100": "* 8", "epochs=10": "epochs=1"},
    "docs/samplers.md": {},
    "docs/editing.md": {},
    "docs/conditions.md": {WIDE: SMALL},
    "docs/devices.md": {"widths=(16, 32), has_attention=(False, True)": SMALL},
    "docs/logging.md": {WIDE: SMALL},
    "docs/deployment.md": {},
    "docs/recipes.md": {"10_000": "8", WIDE: SMALL, 'model.compile("adam")': "model.compile()"},
    "docs/troubleshooting.md": {},
}
NEEDS = {
    "docs/logging.md": pytest.mark.needs("tensorboardX"),
    "docs/deployment.md": [
        pytest.mark.once,
        pytest.mark.needs("tf2onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer"),
    ],
    "keras_ddpm.callbacks.tensorboard.TensorBoard": pytest.mark.needs("tensorboardX"),
}


def public_objects():
    for module in MODULES:
        for name, value in vars(module).items():
            is_code = inspect.isclass(value) or inspect.isfunction(value)
            if is_code and value.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", value
                for key, member in vars(value).items() if inspect.isclass(value) else ():
                    if inspect.isfunction(member):
                        yield f"{module.__name__}.{name}.{key}", member


EXAMPLES = {
    name: inspect.getdoc(value)
    for name, value in public_objects()
    if re.search(r">>>|```python", value.__doc__ or "")
}
del EXAMPLES["keras_ddpm.presets.upload_preset"]  # unit/test_hub.py has a hub for it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny network in the place of each preset and file that pages name."""
    folder = tmp_path_factory.mktemp("snippets")
    for name in ("drawn_flowers_16", "flowers_32"):
        config = json.loads((ROOT / "keras_ddpm" / "presets" / name / "config.json").read_text())
        classes = config["class_names"]
        size, count = int(name[-2:]), len(classes)
        network = keras_ddpm.UNet(size, 3, (8,), (False,), num_res_blocks=1, num_classes=count)
        diffusion = keras_ddpm.GaussianDiffusion(100, "cosine", prediction="velocity")
        model = make_model(network=network, class_names=classes, diffusion=diffusion)
        model.updates.assign(1)  # as of a trained one, for `distill`
        model.save_to_preset(folder / name)
    conditioning = keras_ddpm.SuperResolution(2)
    network = tiny_network(64, 3, condition_channels=4)
    upscaler = make_model(network=network, conditioning=conditioning)
    upscaler.save_to_preset(folder / "flowers_64_upscaler")
    make_model().save(folder / "final.keras")
    return folder


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """Packages that recipes need, and that load or send what tests should not."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "stand_ins")


@pytest.fixture(scope="module")
def names(folder):
    """What examples use without importing it."""
    modules = [*MODULES, keras_ddpm, data, metrics]
    everything = {name: value for module in modules for name, value in vars(module).items()}
    classes = data.drawn_flowers.CLASS_NAMES
    network = keras_ddpm.UNet(16, 3, (8,), (False,), num_res_blocks=1, num_classes=24)
    unet = make_model(network=network, class_names=classes)
    keras_ddpm.diffusers.to_diffusers(unet, folder / "ddpm-cifar10-32")
    model = make_model(network=tiny_network(16, 3, num_classes=24), class_names=classes)
    return {**everything, "np": np, "keras": keras, "ops": ops, "model": model, "unet": unet}


def blocks(text):
    """The ```python blocks, each preceded by empty lines, so that errors name the right line."""
    for match in re.finditer(r"```python\n(.*?)```", text, re.S):
        yield "\n" * text[: match.start()].count("\n") + "\n" + match[1]


def cases(names):
    return [pytest.param(name, marks=NEEDS.get(name, ())) for name in names]


@pytest.mark.parametrize("name", cases(EXAMPLES))
def test_the_example_of_a_docstring(name, folder, names, monkeypatch):
    if ".export." in name and BACKEND == "torch":
        pytest.skip("PyTorch writes no SavedModel")
    monkeypatch.chdir(folder)
    text, names = EXAMPLES[name].replace(WIDE, SMALL), dict(names)
    if name.endswith((".to_diffusers", ".with_dtype_policy")):
        names["model"] = names["unet"]
    for block in blocks(text):
        exec(compile(block, name, "exec"), names)
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    printed = []
    doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not printed, "".join(printed)


@pytest.mark.parametrize("page", cases(PAGES))
def test_the_blocks_of_a_page(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = (ROOT / page).read_text()
    for old, new in PAGES[page].items():
        assert old in text, f"{page} has no {old!r} any more"
        text = text.replace(old, new)
    names = {}
    for block in blocks(text):
        exec(compile(block, page, "exec"), names)


def test_no_page_is_forgotten():
    with_code = {
        str(path.relative_to(ROOT))
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if "```python" in path.read_text()
    }
    # docs/diffusers.md reads a folder from elsewhere: see numerics/test_diffusers_agree.py, and for
    # docs/hub.md unit/test_hub.py.
    assert with_code == {*PAGES, "docs/diffusers.md", "docs/hub.md"}


@pytest.mark.once
def test_the_command_of_the_recipes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    page = (ROOT / "docs" / "recipes.md").read_text()
    (folder / "wandb_log.py").write_text(list(blocks(page))[-1].strip())
    monkeypatch.syspath_prepend(folder)
    option = re.search(r"--logging.callbacks \\\n +'(.*)'", page)[1]
    settings = {**TINY_RUN, "run": "watched"}
    run_command(command("train"), *to_options(settings), "--logging.callbacks", option)
    wandb = importlib.import_module("wandb")
    run = wandb.runs[-1]
    assert run.project == "flowers" and run.finished
    assert [{"loss", "val_loss"} <= logs.keys() for logs in run.logged] == [True, True]


def test_the_errors_of_the_troubleshooting_page():
    """Its headings are parts of the errors of the package, with … for what differs."""
    source = "".join(path.read_text() for path in ROOT.glob("keras_ddpm*/**/*.py"))
    source = re.sub(r"[\"']\s+f?[\"']", "", source)  # strings that go on in the next line
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    errors = re.findall(r"^### `(.+)`$", page, re.M)
    assert len(errors) > 20
    errors.remove("Could not locate class 'DiffusionModel'")  # of Keras
    for error in errors:
        for part in error.split("…"):
            assert part.strip() in source, error
