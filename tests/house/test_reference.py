"""Every module of the core has its place in the reference, once, and the reference names no module that is not there."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from collections import Counter
from pathlib import Path

import unstir

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
NAMED = re.compile(r"^\.\. automodule:: (\S+)$", re.M)


def modules() -> set[str]:
    """Every public module under ``core/unstir``, by name."""
    found = {"unstir", *(module.name for module in pkgutil.walk_packages(unstir.__path__, "unstir."))}
    return {name for name in found if "._" not in name}


def shown() -> Counter[str]:
    return Counter(name for page in REFERENCE.glob("*.md") for name in NAMED.findall(page.read_text()))


def test_every_module_of_the_core_is_on_a_page_of_the_reference():
    assert sorted(modules() - set(shown())) == []


def test_a_module_has_one_place_in_the_reference():
    assert [name for name, places in shown().items() if places > 1] == []


def test_every_module_of_the_reference_is_there():
    assert [name for name in shown() if importlib.util.find_spec(name) is None] == []


def test_every_page_of_the_reference_is_in_its_index():
    pages = {page.stem for page in REFERENCE.glob("*.md")} - {"index"}
    listed = (REFERENCE / "index.md").read_text().partition("```{toctree}")[2].partition("```")[0].split()
    assert pages <= set(listed)
