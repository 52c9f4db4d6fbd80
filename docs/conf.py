"""Builds the documentation: `python -m sphinx -W -b html docs build/docs`.

Each build writes two folders anew: `course/`, the notebooks as they were run, and `generated/`, the
README and the help of the commands.
"""

import contextlib
import inspect
import io
import os
import re
import shutil
from pathlib import Path

os.environ |= {"COLUMNS": "90", "NO_COLOR": "1"}  # of the help of commands
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from numpy.typing import ArrayLike
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

import keras_ddpm
import keras_ddpm.callbacks
import keras_ddpm.data
import keras_ddpm.metrics
from keras_ddpm_cli import COMMANDS, main

INLINE = re.compile(r"`(?P<code>[^`]+)`|[*|]")
DOCS = Path(__file__).parent
REPOSITORY = "https://github.com/keras-ddpm/keras-ddpm"

project = "keras_ddpm"
author = "The keras_ddpm authors"
copyright = author
version = release = keras_ddpm.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
add_module_names = False
maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "keras_ddpm"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "icon_links": [{"name": "GitHub", "url": REPOSITORY, "icon": "fa-brands fa-github"}],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def with_links_of_site(text, root):
    """Links to docs and notebooks become those of the site, and all others those of GitHub.

    `root` is what leads from the file to the root of the repository.
    """
    text = text.replace(f"]({root}docs/", "](/").replace(f"]({root}notebooks/", "](/course/")
    other = rf"\]\({re.escape(root)}(?=(benchmarks|examples|keras_ddpm\w*|tests)/|[A-Z]+\b)"
    return re.sub(other, f"]({REPOSITORY}/blob/main/", text)


def copy_readme():
    (DOCS / "generated").mkdir(exist_ok=True)
    text = (DOCS.parent / "README.md").read_text()
    (DOCS / "generated" / "readme.md").write_text(with_links_of_site(text, ""))


def copy_notebooks():
    shutil.rmtree(DOCS / "course", ignore_errors=True)
    (DOCS / "course").mkdir()
    for path in (DOCS.parent / "notebooks").glob("[0-9]*.ipynb"):
        text = with_links_of_site(path.read_text(), "../")
        (DOCS / "course" / path.name).write_text(text)


def write_help():
    """The `--help` of each command, with the defaults in force."""
    for command in COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, "--help"])
        shown = text.getvalue().replace(" \b", "")  # a backspace of jsonargparse
        (DOCS / "generated" / f"{command}.txt").write_text(shown)


def check_api():
    """Refuses a public name that no page of the reference has."""
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    modules = (keras_ddpm.callbacks, keras_ddpm.data, keras_ddpm.metrics)
    names = {f"keras_ddpm.{name}" for name in keras_ddpm.__all__ if not name.startswith("_")}
    for module in modules:
        public = {name for name, value in vars(module).items() if callable(value)}
        names |= {f"{module.__name__}.{name}" for name in public if not hasattr(keras_ddpm, name)}
    if missing := sorted(name for name in names if not re.search(rf"{name}\b", pages)):
        raise ValueError(f"docs/api has no {', '.join(missing)}")


def docstring_to_rst(app, what, name, obj, options, lines):
    """Docstrings have the code of Markdown: fenced blocks, and names between single backticks."""
    rst, is_code, is_doctest = [], False, False
    for line in lines:
        text = line.strip()
        is_doctest = text.startswith(">>>") or (is_doctest and text)
        if text.startswith("```"):
            is_code = not is_code
            rst += (
                ["", line.replace("```python", ".. code-block:: python"), ""] if is_code else [""]
            )
        elif is_code:
            rst.append(f"    {line}" if line else "")
        else:
            rst.append(line if is_doctest else INLINE.sub(_escape, line))
    lines[:] = rst


def plain_signature(app, what, name, obj, options, signature, returned):
    """Keras hides the arguments of its classes; `Any`, which is any tensor, says nothing; and that
    of NumPy's ArrayLike is long.
    """
    if signature is None:
        return None
    if what == "class" and signature == "(*args, **kwargs)":
        signature = stringify_signature(inspect.signature(obj))
    signature = signature.replace(
        stringify_annotation(ArrayLike, "smart"), "~numpy.typing.ArrayLike"
    )
    signature = re.sub(
        r": (~typing\.)?Any\b( = )?", lambda found: "=" if found[2] else "", signature
    )
    return signature, None if "Any" in (returned or "") else returned


def _escape(match):
    return f"``{match['code']}``" if match["code"] else "\\" + match[0]


def setup(app):
    copy_readme()
    copy_notebooks()
    write_help()
    check_api()
    app.connect("autodoc-process-docstring", docstring_to_rst, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", plain_signature)
