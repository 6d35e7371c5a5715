"""The table of methods: every file, class and test that it names exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "methods.md").read_text().splitlines()
    if re.match(r"^\| [\d, ]* ?\|", line) and "| method |" not in line
]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[1][:40])
def test_what_a_row_names_exists(row: str) -> None:
    _, method, where, exactness, tests = cells(row)
    assert quoted(where), f"{method} has no place"
    assert exactness.lower().split()[0], f"{method} does not say how exact it is"
    for place in quoted(where):
        path, _, name = place.partition(":")
        root, package = (ROOT / "plugins", "") if path.startswith("unstir_") else (ROOT / "core" / "unstir", "unstir.")
        assert (root / path).exists(), path
        module = importlib.import_module(package + path.removesuffix(".py").replace("/", "."))
        assert not name or hasattr(module, name.partition(".")[0]), place
    assert quoted(tests), f"{method} has no test"
    for test in quoted(tests):
        path, _, name = test.partition("::")
        folder = ROOT / "tests" / ("plugins" if "/" in path else "core")
        tree = ast.parse((folder / path).read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, test
