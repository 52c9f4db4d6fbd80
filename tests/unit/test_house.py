"""Rules of the source: nothing private of others, no effect at import, no circle, short files."""

import ast
import re

import pytest
from tools import ROOT, run_python

PACKAGE = ROOT / "keras_ddpm"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "examples").glob("*.py")])
# PyTorch has no other way to record a function as a list of operations.
EXPERIMENTAL = {"torch.fx.experimental.proxy_tensor"}
# Public settings: of a data set, of a layer, and where PyTorch keeps the numbers of a parameter.
SETTINGS = {
    "options.autotune.enabled",
    "self.critic.trainable",
    "self.ema_network.trainable",
    "self.teacher.trainable",
    "self.kernel.value.data",
    "weight.trainable",
}
LATE = {
    "IPython",
    "datasets",
    "huggingface_hub",
    "jsonargparse",
    "matplotlib",
    "tensorboardX",
    "tensorflow_datasets",
}
pytestmark = pytest.mark.once


def trees():
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def own_private_names():
    """Names with one leading underscore that are defined in the sources."""
    names = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in names if is_private(name)}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_private_attribute_of_an_object_that_is_not_ours():
    own, found = own_private_names(), []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                base = ast.unparse(node.value)
                if base not in ("self", "cls", "super()") or node.attr not in own:
                    found.append(f"{path.name}:{node.lineno} {base}.{node.attr}")
    assert not found


def test_no_replaced_attribute_of_an_object_that_is_not_ours():
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            for target in targets if isinstance(node, ast.Assign | ast.AugAssign) else ():
                for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                    name = ast.unparse(one)
                    is_other = isinstance(one, ast.Attribute) and ast.unparse(one.value) != "self"
                    if is_other and name not in SETTINGS:
                        found.append(f"{path.name}:{node.lineno} {name}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
                base = ast.unparse(node.args[0])
                assert base == "self", f"{path.name}:{node.lineno}"
    assert not found


def test_no_internal_module():
    found = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            modules += [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            for module in modules:
                if re.search(r"\.(experimental|_(?!_)\w+|src|__internal__)(\.|$)", module):
                    if module not in EXPERIMENTAL and not module.startswith(("self.", "super()")):
                        found.append(f"{path.name}:{node.lineno} {module}")
    assert not found


def test_import_changes_nothing():
    code = """
import logging, os, warnings
import keras

def seen():
    levels = {n: getattr(l, "level", None) for n, l in logging.root.manager.loggerDict.items()}
    return dict(os.environ), levels, logging.root.level, keras.config.dtype_policy().name

before, filters = seen(), list(warnings.filters)
import keras_ddpm, keras_ddpm.metrics, keras_ddpm.diffusers
after = seen()
new = {name: after[1][name] for name in before[1]}
assert (after[0], new, after[2], after[3]) == before, "import keras_ddpm has an effect"
assert list(warnings.filters) == filters
print("nothing changed")
"""
    assert "nothing changed" in run_python("-c", code)


def test_what_takes_long_to_import_is_imported_when_first_used():
    """Keras imports Matplotlib itself where it is installed, so sys.modules would not tell."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            found += [f"{path.name}: {m}" for m in modules if m.partition(".")[0] in LATE]
    assert not found


def test_imports_have_one_direction():
    """No circle: modules can be ordered so that each imports only earlier ones."""

    def name_of(path):
        parts = path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    imports = {}
    modules = {name_of(path) for path in SOURCES}
    for path, tree in trees().items():
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_ddpm"):
                for name in node.names:
                    full = f"{node.module}.{name.name}"
                    found.add(full if full in modules else node.module)
        imports[name_of(path)] = found - {name_of(path)}
    while imports:
        free = [module for module, needed in imports.items() if not needed & imports.keys()]
        assert free, f"a circle among {sorted(imports)}"
        for module in free:
            del imports[module]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_the_public_names():
    import keras_ddpm

    assert len(set(keras_ddpm.__all__)) == len(keras_ddpm.__all__)
    for name in keras_ddpm.__all__:
        assert getattr(keras_ddpm, name).__doc__, name
    assert set(dir(keras_ddpm)) == set(keras_ddpm.__all__)
