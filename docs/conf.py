"""The documentation: MyST pages, a gallery that runs, and the reference from docstrings. Nothing here needs a network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / root) for root in ("core", "plugins", "pipelines", "data")]

import matplotlib  # noqa: E402
import torch  # noqa: E402

import unstir  # noqa: E402

matplotlib.use("agg")
torch.set_num_threads(1)  # the gallery's states are small, and threads that wait for each other take longest

project = "unstir"
author = "the unstir maintainers"
copyright = "the unstir maintainers, Apache-2.0"
release = version = unstir.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["myst_parser", "sphinx_design", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build", "examples", "gallery/**/*.ipynb", "**/sg_execution_times.rst", "sg_execution_times.rst"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
if not (HERE / "_static" / "overview.png").exists():  # what `make demo` draws
    suppress_warnings += ["image.not_readable"]

html_theme = "pydata_sphinx_theme"
html_title = "unstir"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": {"**": ["page-toc"], **{f"howto/{page.stem}": [] for page in (HERE / "howto").glob("*.md")}},
}
ALONE = ("index", "architecture", "plugins", "numbers", "measurements", "certificate", "methods", "changelog", "tutorials/*")
html_sidebars = {page: [] for page in ALONE}  # pages without pages beside them

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}
autodoc_type_aliases = {name: name for name in ("State", "Time", "Number", "Model", "Shape", "Condition", "Progress", "Data", "Batches")}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": ["examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "show_memory": False,
    "capture_repr": (),
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "plot_gallery": "True",
    "reset_modules": ("matplotlib",),
    "within_subsection_order": "FileNameSortKey",
}

CODE = re.compile(r"(``[^`]+``|:\w+:`[^`]+`|`[^`]+`)")
CHECKED = re.compile(r"Annotated\[(\w+), (?:'[^']*'|[^'\[\]])*\]")
REFERENCE = " " * 20
"""How far a line is indented that ends a paragraph with its reference, at the right."""
SECTION = re.compile(r"^\s*(Args|Returns|Raises|Yields|Attributes|Example|Examples|Reference|References):\s*$")


def as_written(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings of unstir are plain text with equations; make reStructuredText of them that shows the same.

    Equations, which stand indented in a paragraph of their own, become literal blocks; stars, bars and underscores outside code
    stay what they are.
    """
    made: list[str] = []
    block: list[str] = []
    section = False
    before = ""
    for line in [*lines, ""]:
        if line.startswith(REFERENCE) and before.strip() and not block and not section:
            line = line.strip()
        if SECTION.match(line):
            section = line.strip() not in ("Example:", "Examples:")
        elif line and not line.startswith(" "):
            section = False
        is_equation = line.startswith("    ") and not section and not before.startswith(">>>")
        if is_equation and (block or not before.strip()):
            block.append(line)
            continue
        if block and line.strip():
            made += ["::", "", *block, ""]
            block = []
        elif block:
            block.append(line)
            continue
        if line.strip():
            before = line
        made.append(line if line.lstrip().startswith(">>>") else escaped(line))
        if not line.strip():
            before = ""
    if block:
        made += ["::", "", *block, ""]
    lines[:] = made


def escaped(line: str) -> str:
    """A line with stars, bars and trailing underscores outside code taken literally; code in single backticks becomes code."""
    parts = CODE.split(line)
    for index, part in enumerate(parts):
        if index % 2 == 0:
            after_code = "\\ " if index and part[:1] not in ("", " ") else ""
            parts[index] = after_code + re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([*|])", r"\\\1", part))
        elif part.startswith("`") and not part.startswith("``"):
            parts[index] = f"`{part}`"
    return "".join(parts)


def without_checks(app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Signatures with ``Annotated[int, Gt(gt=0)]`` as ``int``: what the checks allow stands in the docstrings."""
    return (CHECKED.sub(r"\1", signature), returns) if signature else None


def setup(app: Any) -> None:
    """Connect before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", as_written, priority=400)
    app.connect("autodoc-process-signature", without_checks)
